from .digits import digits_dataset, prepare_digits

__all__ = ['digits_dataset', 'prepare_digits']
