"""Outside judges: they need the extra `adversarial`."""

import sys
import warnings

import keras
import numpy as np
import pytest

from kerasreg.adversarial import FGSM, PGD, as_art_classifier, as_foolbox_model
from tests.adversarial import models

EPS = {np.inf: 0.15, 2: 0.8}
norms = pytest.mark.parametrize("norm", EPS)


def _art():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("art.attacks.evasion")


def accuracy(model, x, y):
    return np.mean(np.argmax(model(np.asarray(x)), axis=1) == y)


@pytest.mark.parametrize("last", [None, "softmax"])
@norms
def test_fgsm_is_art_s(norm, last):
    art, model, (x, y) = _art(), models.trained(last=last), models.digits()[1]
    judge = as_art_classifier(model, (0.0, 1.0))
    theirs = art.FastGradientMethod(judge, norm=norm, eps=EPS[norm]).generate(x, y)
    ours = FGSM(EPS[norm], norm, bounds=(0.0, 1.0))(model, x, y)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 if last is None else 2e-4)


@norms
def test_pgd_is_as_strong_as_art_s_and_foolbox_s(norm):
    art, foolbox = _art(), pytest.importorskip("foolbox")
    model, (x, y) = models.trained(), models.digits()[1]
    eps, steps = EPS[norm], 20
    ours = PGD(eps, norm, steps=steps, bounds=(0.0, 1.0))(model, x, y)
    by_art = art.ProjectedGradientDescentTensorFlowV2(
        as_art_classifier(model, (0.0, 1.0)),
        norm=norm,
        eps=eps,
        eps_step=2.5 * eps / steps,
        max_iter=steps,
        num_random_init=1,
        verbose=False,
    ).generate(x, y)
    attack = {np.inf: foolbox.attacks.LinfPGD, 2: foolbox.attacks.L2PGD}[norm]
    _, by_foolbox, _ = attack(rel_stepsize=2.5 / steps, steps=steps)(
        as_foolbox_model(model, (0.0, 1.0)),
        keras.ops.convert_to_tensor(x),
        keras.ops.convert_to_tensor(y),
        epsilons=eps,
    )
    found = accuracy(model, ours, y)
    assert found == pytest.approx(accuracy(model, by_art, y), abs=0.02)
    assert found == pytest.approx(accuracy(model, by_foolbox, y), abs=0.02)


def test_l1_is_no_weaker_than_foolbox_s():
    foolbox = pytest.importorskip("foolbox")
    model, (x, y) = models.trained(), models.digits()[1]
    ours = PGD(2.0, 1, steps=20, bounds=(0.0, 1.0))(model, x, y)
    _, theirs, _ = foolbox.attacks.SparseL1DescentAttack(steps=20)(
        as_foolbox_model(model, (0.0, 1.0)),
        keras.ops.convert_to_tensor(x),
        keras.ops.convert_to_tensor(y),
        epsilons=2.0,
    )
    assert accuracy(model, ours, y) <= accuracy(model, theirs, y) + 0.02


def test_a_single_output_becomes_two_classes():
    _art()
    kernel = np.array([[2.0], [0.0]])
    loss, x = "binary_crossentropy", np.array([[1.0, 0.0], [-0.5, 0.0]], "float32")
    model = models.linear(kernel, loss=loss, activation="sigmoid")
    judge = as_art_classifier(model)
    np.testing.assert_allclose(judge.predict(x), [[0, 2], [0, -1]], atol=1e-5)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError) as caught:
        as_foolbox_model(models.trained(), (0, 1))
    assert str(caught.value) == (
        "This needs `foolbox`, which is not installed. "
        'Install it with: pip install "kerasreg[adversarial]"'
    )
