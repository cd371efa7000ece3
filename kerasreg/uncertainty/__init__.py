"""How sure a model is: predictions by sampling."""

from kerasreg.uncertainty.metrics import (
    BrierScore,
    ExpectedCalibrationError,
    NegativeLogLikelihood,
)
from kerasreg.uncertainty.predict import predict
from kerasreg.uncertainty.prediction import Prediction

__all__ = [
    "BrierScore",
    "ExpectedCalibrationError",
    "NegativeLogLikelihood",
    "Prediction",
    "predict",
]
