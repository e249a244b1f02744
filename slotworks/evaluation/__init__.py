"""A method and data in; scores, pictures and diagnoses out."""
