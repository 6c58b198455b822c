//! Grids of rows of every width and alignment: nothing but places changes.

use serpens_core::{DType, Device, Gradients, Tape};

use super::reference::swapped;
use crate::shared::tests::{cases, read, tensor, values};
use crate::swap_axes::swap_axes;

/// (batch, rows, columns, width, values beside it in each row on both sides).
const SIZES: [(usize, usize, usize, usize, usize); 8] = [
    (1, 1, 1, 1, 0),
    (2, 1, 9, 5, 0),
    (3, 4, 7, 64, 0),
    (2, 28, 28, 16, 8),
    (1, 5, 3, 24, 4),
    (2, 6, 2, 7, 3),
    (1, 3, 2, 4200, 0),
    (1, 300, 41, 2, 1),
];

/// y and the gradient of x, for x with these values.
fn run(size: (usize, usize, usize, usize, usize), device: Device, dtype: DType) -> [Vec<f64>; 2] {
    let (batch, rows, columns, width, margin) = size;
    let shape = [batch, rows * columns, width + 2 * margin];
    let inside = margin..margin + width;
    let tape = Tape::new();
    let around = tape.leaf(tensor(shape, &values(1, shape, 2.0, dtype), dtype, device));
    let x = around.columns(inside.clone()).unwrap();
    let y = swap_axes(&x, [rows, columns]).unwrap();
    let dy = values(2, y.shape(), 1.0, dtype);
    let seeds = vec![(&y, tensor(y.shape(), &dy, dtype, device))];
    tape.backward_from(seeds, &mut Gradients::new()).unwrap();
    let dx = read(&tape.gradient(&around).unwrap().unwrap());
    let dx = dx
        .chunks_exact(shape[2])
        .flat_map(|row| &row[inside.clone()]);
    [read(y.tensor().unwrap()), dx.copied().collect()]
}

/// Every case, for the programs that it asks for.
pub(crate) fn run_all(device: Device, dtype: DType) {
    for size in SIZES {
        run(size, device, dtype);
    }
}

#[test]
fn values_and_gradients_change_their_places_on_every_device() {
    for (device, dtype) in cases() {
        for size in SIZES {
            let (batch, rows, columns, width, margin) = size;
            let around = values(1, [batch, rows * columns, width + 2 * margin], 2.0, dtype);
            let x = around.chunks_exact(width + 2 * margin);
            let x: Vec<f64> = x
                .flat_map(|row| &row[margin..margin + width])
                .copied()
                .collect();
            let dy = values(2, [batch, rows * columns, width], 1.0, dtype);
            let [y, dx] = run(size, device, dtype);
            assert_eq!(
                y,
                swapped(&x, [rows, columns], width),
                "{size:?} on {device} in {dtype}"
            );
            // What comes back is read along the rows again.
            assert_eq!(
                swapped(&dx, [rows, columns], width),
                dy,
                "{size:?} on {device} in {dtype}"
            );
        }
    }
}
