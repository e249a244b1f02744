"""Readers of official and common files, one file for each data set, and what several of them share."""
