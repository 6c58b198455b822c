//! causal_conv1d
