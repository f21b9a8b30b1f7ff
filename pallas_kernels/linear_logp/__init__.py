"""Log-probability and entropy of tokens from hidden states and the head."""

from pallas_kernels.linear_logp.api import linear_logp

__all__ = ['linear_logp']
