//! lti_kernel
