"""Define discriminators, their frozen backbones, and the augmentation in front of them."""
