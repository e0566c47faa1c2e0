"""Any checkpoint of a model, read into it and written; whether it is a supernet's."""
