from .digits import digits_dataset, prepare_digits
