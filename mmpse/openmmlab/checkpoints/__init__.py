"""Any checkpoint of a model, read into it and written."""
