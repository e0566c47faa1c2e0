from .dataset import digits_dataset
from .digits import prepare_digits
