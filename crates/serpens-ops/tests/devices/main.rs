//! Every operation, on every device that is present and in every type it takes there, against its definition in f64: outputs and
//! gradients, through the tape as a user meets it. On a machine without a GPU the tests say so and run on the processor only.

mod large;
mod scan;
mod support;
