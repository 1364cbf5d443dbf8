"""Documents in the fields of records, such as lines of .jsonl: record.py says what a form is, api.py has the names."""
