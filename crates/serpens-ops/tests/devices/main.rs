//! Every operation, on every device that is present and in every type it takes there, against its definition in f64: outputs and
//! gradients, through the tape as a user meets it. On a machine without a GPU the tests say so and run on the processor only.

mod adamw;
mod conv;
mod cross_entropy;
mod elementwise;
mod embedding;
mod large;
mod linear;
mod long_conv;
mod lti_kernel;
mod rms_norm;
mod scan;
mod support;
