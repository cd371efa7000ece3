"""The KL divergence of multiplicative Normal noise from a log-uniform prior.

Noise of relative variance α turns a weight θ into Normal(θ, α·θ²). Its divergence from
the prior p(log|w|) = const depends on log α alone, up to the prior's constant, which is
chosen so that it falls to 0 as α grows. The prior is improper: take the divergence as
a sparsifier that prefers much noise, not as a statement of belief.
"""

from keras import ops

from kerasreg.fusion import fused

# Molchanov et al. 2017, eq. 14.
_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695

# Keeps log α of a zero weight finite.
_LEAST_SQUARE = 1e-8


def log_alpha(theta, log_sigma2):
    """The log relative variance of Normal(theta, sigma²), entry by entry.

    Args:
        theta: Float tensor, the means.
        log_sigma2: Tensor of its shape.

    Returns:
        A tensor of the shape; finite where `theta` is zero.
    """
    return log_sigma2 - ops.log(ops.square(theta) + _LEAST_SQUARE)


def divergence(log_alpha):
    """The KL divergence in nats, entry by entry; 0.0095 off at most.

    Args:
        log_alpha: Float tensor.

    Returns:
        A tensor of its shape, with a gradient that does not vanish on either side:
        -½ where `log_alpha` is very negative, -½·exp(-log_alpha) where it is large.
    """
    rise = ops.sigmoid(-_K2 - _K3 * log_alpha)
    return _K1 * rise + 0.5 * ops.softplus(-log_alpha)


def kernel_divergence(theta, log_sigma2, variable):
    """The sum of `divergence` over a kernel, in few passes over its memory.

    Its gradient is the analytic one. The value and the derivative by log α, which the
    gradients by both tensors are made of, are computed together.

    Args:
        theta: Float tensor, the means.
        log_sigma2: Tensor of its shape.
        variable: The backend's variable that holds `theta`.

    Returns:
        A scalar tensor.
    """

    @ops.custom_gradient
    def total(theta, log_sigma2):
        sums, slope = fused(_sums_and_slope, theta, variable)(theta, log_sigma2)

        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return fused(_gradients, theta, variable)(upstream, theta, slope)

        return ops.sum(sums), grad

    return total(theta, log_sigma2)


def _sums_and_slope(theta, log_sigma2):
    """The divergence summed over the first axis, and its derivative by log α.

    Written with two hyperbolic tangents, the cheapest of the functions that could
    serve: sigmoid(-x) = (1 - tanh(x/2))/2, and log(1 + exp(-|x|)) is minus the log of
    (1 + |tanh(x/2)|)/2.
    """
    x = log_alpha(theta, log_sigma2)
    rise = ops.tanh(0.5 * _K2 + (0.5 * _K3) * x)
    share = ops.tanh(0.5 * x)
    soft = ops.maximum(-x, 0.0) - ops.log(0.5 + 0.5 * ops.abs(share))
    value = (0.5 * _K1) * (1.0 - rise) + 0.5 * soft
    slope = (0.25 * _K1 * _K3) * (ops.square(rise) - 1.0) + 0.25 * (share - 1.0)
    return ops.sum(value, axis=0), slope


def _gradients(upstream, theta, slope):
    """By `theta` and `log_sigma2`, from the derivative by log α."""
    slope = upstream * slope
    return slope * theta * (-2.0 / (ops.square(theta) + _LEAST_SQUARE)), slope
