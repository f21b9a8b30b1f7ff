"""The sum over tokens of a loss of their log-probability and entropy, its gradient made in the forward pass."""

from pallas_kernels.linear_policy_loss.api import linear_policy_loss

__all__ = ['linear_policy_loss']
