"""Files of documents, a reader for each extension: format.py says what a reader is, api.py has the names."""
