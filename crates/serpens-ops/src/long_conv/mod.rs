//! long_conv
