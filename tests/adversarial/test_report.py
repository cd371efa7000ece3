import pytest

from kerasreg.adversarial import FGSM, PGD, Check, RobustReport
from kerasreg.adversarial.report import settings


def test_made_by_hand():
    pytest.importorskip("pandas")
    found = RobustReport(0.9, 0.25, {"PGD": 0.5}, {0.0: 0.9, 0.1: 0.5}, [], 40)
    assert repr(found) == (
        "Accuracy of 40 examples\n"
        "  clean        0.900\n"
        "  PGD          0.500\n"
        "  all attacks  0.250\n"
        "Accuracy under PGD by eps\n"
        "  0: 0.900, 0.1: 0.500\n"
        "Checks for masked gradients"
    )
    frame = found.to_frame()
    assert list(frame.columns) == ["attack", "norm", "eps", "accuracy"]
    assert frame.accuracy.tolist() == [0.9, 0.25, 0.5, 0.9, 0.5]


def test_it_says_what_the_attacks_were():
    pytest.importorskip("pandas")
    pgd = settings(PGD(0.3, 2, steps=40, restarts=5))
    assert pgd == {"norm": "2", "eps": 0.3, "steps": 40, "restarts": 5}
    found = RobustReport(
        0.9,
        0.5,
        {"FGSM": 0.75, "PGD": 0.5},
        {0.3: 0.5},
        [Check("more steps change little", 0.02, 0.01, "Give it more.")],
        40,
        {"FGSM": settings(FGSM(0.1)), "PGD": pgd},
        pgd,
        notes=("A note.",),
    )
    assert not found.passed
    assert repr(found) == (
        "Accuracy of 40 examples\n"
        "  clean            0.900\n"
        "  FGSM (inf, 0.1)  0.750\n"
        "  PGD (2, 0.3)     0.500\n"
        "  all attacks      0.500\n"
        "Accuracy under PGD (2, 5 × 40 steps) by eps\n"
        "  0.3: 0.500\n"
        "Checks for masked gradients, with PGD (2, 0.3)\n"
        "  FAIL  more steps change little: 0.020 (limit 0.010)\n"
        "The accuracy under attack is not to be believed:\n"
        "  Give it more.\n"
        "A note."
    )
    rows = found.to_frame().astype(object).where(found.to_frame().notna(), None)
    assert rows.norm.tolist() == [None, None, "inf", "2", "2"]
    assert rows.eps.tolist() == [0.0, None, 0.1, 0.3, 0.3]
