//! A differentiable operation that Serpens does not have, from outside: its value, the rule that goes back, and what
//! holds the rule against finite differences.
//!
//! `cargo run --release -p serpens-core --example own_operation`

use serpens_core::tape::{Backward, BackwardContext, record, tracked};
use serpens_core::{Device, GradCheckOptions, Gradients, Result, Tape, Tensor, Var, gradcheck};

/// y = x / (1 + |x|), value by value, on the processor.
fn softsign(x: &Var) -> Result<Var> {
    let values = x.tensor()?.as_slice::<f32>()?;
    let y: Vec<f32> = values.iter().map(|x| x / (1.0 + x.abs())).collect();
    let y = Tensor::from_slice(x.shape(), &y, Device::cpu())?;
    // Only where a gradient will be asked for is anything kept; detached, so that the record does not hold itself.
    let operation =
        tracked(&[Some(x)]).then(|| Box::new(Softsign { x: x.detach() }) as Box<dyn Backward>);
    let [y] = record("softsign", &[Some(x)], [y], operation)?;
    Ok(y)
}

struct Softsign {
    x: Var,
}

impl Backward for Softsign {
    /// dx = dy / (1 + |x|)²
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        let Some(mut dy) = context.take_output(0) else {
            return Ok(()); // nothing depends on the output
        };
        let x = self.x.tensor()?.as_slice::<f32>()?;
        for (dy, x) in dy.make_mut::<f32>()?.iter_mut().zip(x) {
            *dy /= (1.0 + x.abs()).powi(2);
        }
        context.add(0, dy) // becomes the gradient of input 0, or is added to it
    }
}

fn main() -> Result<()> {
    let x = Tensor::from_slice(
        [2, 3],
        &[-2.0_f32, -1.0, -0.3, 0.4, 1.0, 3.0],
        Device::cpu(),
    )?;
    let check = gradcheck(
        |v| softsign(&v[0]),
        std::slice::from_ref(&x),
        GradCheckOptions::default(),
    )?;
    println!(
        "the worst gradient is off by {:.1e} of the largest",
        check.error
    );
    assert!(check.ok);

    // Values that are moved until softsign(x) is ½.
    let mut x = x;
    for step in 0..=40 {
        let tape = Tape::new();
        let leaf = tape.leaf(x.clone());
        let y = softsign(&leaf)?;
        let mut off = y.tensor()?.clone();
        off.make_mut::<f32>()?.iter_mut().for_each(|y| *y -= 0.5);
        if step % 10 == 0 {
            let squares = off.as_slice::<f32>()?.iter().map(|d| d * d);
            println!("step {step:2}: Σ (y − ½)² = {:.5}", squares.sum::<f32>());
        }
        // d/dy of half the sum of squares is what arrives at y.
        tape.backward_from(vec![(&y, off)], &mut Gradients::new())?;
        let gradient = tape.gradient(&leaf)?.expect("y depends on it");
        let values = x.make_mut::<f32>()?.iter_mut();
        let slopes = gradient.as_slice::<f32>()?;
        values.zip(slopes).for_each(|(x, slope)| *x -= 2.0 * slope);
    }
    println!("{x:?}: {:?}", x.as_slice::<f32>()?);
    Ok(())
}
