"""Readers of official and common files: one file for each data set, and what several of them share.

A reader brings its rows of the catalogue as `ROWS`.
"""
