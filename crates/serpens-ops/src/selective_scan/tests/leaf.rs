//! Operands of a scan whose gradients are asked for.

use serpens_core::{DType, Device, Gradients, ParamId, Shape, Tape, Var};

use crate::shared::tests::{read, tensor};

/// An operand that wants a gradient: a parameter, or a leaf of the tape, inside wider rows where asked for.
#[derive(Clone)]
pub(super) struct Leaf {
    pub(super) operand: Var,
    whole: Var,
    param: Option<ParamId>,
}

impl Leaf {
    /// Of these values, inside wider rows where `inside` says so.
    pub(super) fn new(
        tape: &Tape,
        shape: Shape,
        from: &[f64],
        inside: bool,
        device: Device,
        dtype: DType,
    ) -> Self {
        if !inside {
            let whole = tape.leaf(tensor(shape, from, dtype, device));
            return Self {
                operand: whole.clone(),
                whole,
                param: None,
            };
        }
        let cols = shape.cols();
        let rows = from.chunks(cols);
        let wider: Vec<f64> = rows
            .flat_map(|row| {
                [9.0]
                    .into_iter()
                    .chain(row.iter().copied())
                    .chain([-9.0, 9.0])
            })
            .collect();
        let whole = tape.leaf(tensor(shape.with_cols(cols + 3), &wider, dtype, device));
        Self {
            operand: whole.columns(1..cols + 1).unwrap(),
            whole,
            param: None,
        }
    }

    /// A parameter of these values.
    pub(super) fn param(shape: Shape, from: &[f64], device: Device) -> Self {
        let id = ParamId::fresh();
        let var = Var::param(id, tensor(shape, from, DType::F32, device));
        Self {
            operand: var.clone(),
            whole: var,
            param: Some(id),
        }
    }

    /// The gradient, of the columns alone.
    pub(super) fn gradient(&self, tape: &Tape, gradients: &mut Gradients) -> (DType, Vec<f64>) {
        let gradient = match self.param {
            Some(id) => gradients.get(id),
            None => tape.gradient(&self.whole),
        };
        let gradient = gradient.unwrap().unwrap();
        let (cols, stride) = (self.operand.shape().cols(), gradient.shape().cols());
        let from = stride - cols - if stride > cols { 2 } else { 0 };
        let all = read(&gradient);
        let rows = all.chunks(stride);
        let inner = rows.flat_map(|row| row[from..from + cols].to_vec());
        (gradient.dtype(), inner.collect())
    }
}
