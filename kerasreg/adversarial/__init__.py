"""Adversarial regularization: attacks, training against them, honest evaluation."""

from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.attacks import FGSM, PGD, VAT, Noise
from kerasreg.adversarial.hooks import perturbed
from kerasreg.adversarial.training import AdversarialModel

__all__ = ["FGSM", "PGD", "VAT", "AdversarialModel", "Attack", "Noise", "perturbed"]
