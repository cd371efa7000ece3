"""Adversarial regularization: attacks, training against them, honest evaluation."""

from kerasreg.adversarial.attack import Attack
from kerasreg.adversarial.attacks import FGSM, PGD, VAT, Noise
from kerasreg.adversarial.bridge import as_art_classifier, as_foolbox_model
from kerasreg.adversarial.evaluation import RobustReport, robust_evaluate
from kerasreg.adversarial.guard import OverfittingGuard
from kerasreg.adversarial.hooks import perturbed
from kerasreg.adversarial.masking import Check
from kerasreg.adversarial.search import RandomSearch
from kerasreg.adversarial.training import AdversarialModel

__all__ = [
    "FGSM",
    "PGD",
    "VAT",
    "AdversarialModel",
    "Attack",
    "Check",
    "Noise",
    "OverfittingGuard",
    "RandomSearch",
    "RobustReport",
    "as_art_classifier",
    "as_foolbox_model",
    "perturbed",
    "robust_evaluate",
]
