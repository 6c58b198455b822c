//! The tape on small operations of a user's own.

use super::*;
use crate::{Device, Error, Result, Shape, Tensor};

fn tensor(shape: impl Into<Shape>, values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values, Device::cpu()).unwrap()
}

/// y = a ⊙ b, as a user would write it.
fn product(a: &Var, b: &Var) -> Result<Var> {
    struct Product(Var, Var);
    impl Backward for Product {
        fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
            let Some(dy) = context.take_output(0) else {
                return Ok(());
            };
            let dy = dy.mat()?;
            let [da, db] = context.overwrite([0, 1])?;
            for (gradient, other) in [(da, &self.1), (db, &self.0)] {
                let mut gradient = gradient.mat()?;
                let other = other.mat()?;
                for i in 0..gradient.rows() {
                    for ((g, o), d) in gradient.row(i).iter_mut().zip(other.row(i)).zip(dy.row(i)) {
                        *g = o * d;
                    }
                }
            }
            Ok(())
        }
    }
    let (ma, mb) = (a.mat()?, b.mat()?);
    let mut values = Vec::new();
    for i in 0..ma.rows() {
        values.extend(ma.row(i).iter().zip(mb.row(i)).map(|(x, y)| x * y));
    }
    let inputs = [Some(a), Some(b)];
    let operation: Option<Box<dyn Backward>> =
        tracked(&inputs).then(|| Box::new(Product(a.detach(), b.detach())) as _);
    let [y] = record("product", &inputs, [tensor(a.shape(), &values)], operation)?;
    Ok(y)
}

#[test]
fn gradients_flow_through_shared_values_and_columns() {
    let tape = Tape::new();
    let x = tape.leaf(tensor([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    // y = x[:, 0..1] ⊙ x[:, 2..3], and x[:, 2..3] again in z = y ⊙ x[:, 2..3]
    let (first, last) = (x.columns(0..1).unwrap(), x.columns(2..3).unwrap());
    let y = product(&first, &last).unwrap();
    let z = product(&y, &last).unwrap();
    let mut gradients = Gradients::new();
    tape.backward_from(vec![(&z, tensor([2, 1], &[1.0, 10.0]))], &mut gradients)
        .unwrap();
    let dx = tape.gradient(&x).unwrap().unwrap();
    // z = a c², dz/da = c², dz/dc = 2 a c; the middle column takes no part.
    assert_eq!(
        dx.to_vec::<f32>().unwrap(),
        [9.0, 0.0, 6.0, 360.0, 0.0, 480.0]
    );
}

#[test]
fn the_same_value_twice_in_one_operation_gets_both_gradients() {
    let tape = Tape::new();
    let x = tape.leaf(tensor([1, 2], &[3.0, -4.0]));
    let y = product(&x, &x).unwrap();
    tape.backward_from(
        vec![(&y, tensor([1, 2], &[1.0, 1.0]))],
        &mut Gradients::new(),
    )
    .unwrap();
    let dx = tape.gradient(&x).unwrap().unwrap();
    assert_eq!(dx.to_vec::<f32>().unwrap(), [6.0, -8.0]);
}

#[test]
fn parameters_accumulate_over_passes_and_clear() {
    let id = ParamId::fresh();
    let weight = tensor([1, 1], &[2.0]);
    let mut gradients = Gradients::new();
    for _ in 0..3 {
        let tape = Tape::new();
        let x = tape.constant(tensor([1, 1], &[5.0]));
        let loss = product(&x, &Var::param(id, weight.clone())).unwrap();
        tape.backward(&loss, 0.5, &mut gradients).unwrap();
    }
    let gradient = gradients.get(id).unwrap().unwrap();
    assert_eq!(gradient.to_vec::<f32>().unwrap(), [7.5]);
    gradients.clear();
    assert!(gradients.get(id).unwrap().is_none());
}

#[test]
fn nothing_is_recorded_without_a_tape() {
    let weight = Var::param(ParamId::fresh(), tensor([1, 1], &[2.0]));
    let x = Var::from(tensor([1, 1], &[5.0]));
    assert!(!tracked(&[Some(&x), Some(&weight), None]));
    assert!(product(&x, &weight).unwrap().tape().is_none());
}

#[test]
fn values_of_two_tapes_do_not_mix() {
    let (one, other) = (Tape::new(), Tape::new());
    let a = one.leaf(tensor([1, 1], &[1.0]));
    let b = other.leaf(tensor([1, 1], &[1.0]));
    assert!(matches!(product(&a, &b), Err(Error::TapeMismatch { .. })));
}

#[test]
fn what_an_operation_kept_is_freed_by_the_backward_pass() {
    let tape = Tape::new();
    let mut x = tensor([1, 1], &[5.0]);
    let weight = Var::param(ParamId::fresh(), tensor([1, 1], &[2.0]));
    let loss = product(&tape.constant(x.clone()), &weight).unwrap();
    let address = x.as_slice::<f32>().unwrap().as_ptr();
    tape.backward(&loss, 1.0, &mut Gradients::new()).unwrap();
    // Unshared again: writing needs no copy.
    assert_eq!(x.make_mut::<f32>().unwrap().as_ptr(), address);
}

#[test]
fn a_reshaped_value_gets_its_gradient_in_its_own_shape() {
    let tape = Tape::new();
    let x = tape.leaf(tensor([2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let wide = x.reshape([1, 4]).unwrap();
    let y = product(&wide, &wide).unwrap();
    let z = product(&x.columns(1..2).unwrap(), &x.columns(0..1).unwrap()).unwrap();
    let seeds = vec![
        (&y, tensor([1, 4], &[1.0; 4])),
        (&z, tensor([2, 1], &[1.0; 2])),
    ];
    tape.backward_from(seeds, &mut Gradients::new()).unwrap();
    let dx = tape.gradient(&x).unwrap().unwrap();
    assert_eq!(dx.shape(), Shape::from([2, 2]));
    assert_eq!(dx.to_vec::<f32>().unwrap(), [4.0, 5.0, 10.0, 11.0]);
}

#[test]
fn columns_of_another_last_axis_are_refused_where_a_gradient_is_needed() {
    let x = tensor([2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let leaf = Tape::new().leaf(x.clone());
    let columns = |x: &Var| x.reshape([1, 4]).and_then(|wide| wide.columns(1..3));
    assert!(matches!(columns(&leaf), Err(Error::Shape { .. })));
    let untracked = columns(&Var::from(x)).unwrap();
    assert_eq!(untracked.mat().unwrap().row(0), [2.0, 3.0]);
    // The axes before the last may change.
    assert!(leaf.reshape([2, 1, 2]).unwrap().columns(1..2).is_ok());
}

#[test]
fn gradcheck_passes_a_right_gradient_and_finds_a_wrong_one() {
    use crate::{GradCheckOptions, gradcheck};
    let inputs = [
        tensor([2, 2], &[0.5, -1.0, 2.0, 0.3]),
        tensor([2, 2], &[1.5, 0.7, -0.2, 0.9]),
    ];
    let right = gradcheck(
        |v| product(&v[0], &v[1]),
        &inputs,
        GradCheckOptions::default(),
    )
    .unwrap();
    assert!(right.ok, "{right:?}");
    let wrong = gradcheck(
        |v| product(&v[0], &v[1].detach()),
        &inputs,
        GradCheckOptions::default(),
    );
    assert!(!wrong.unwrap().ok);
}

#[test]
fn a_recomputed_stretch_has_the_gradients_of_the_plain_one() {
    let id = ParamId::fresh();
    let weight = tensor([2, 2], &[0.5, -1.0, 2.0, 3.0]);
    let x = tensor([2, 2], &[1.0, 2.0, -3.0, 4.0]);
    let stretch = {
        let weight = weight.clone();
        move |inputs: &[Var]| -> Result<[Var; 1]> {
            let weight = Var::param(id, weight.clone()).on(&inputs[0]);
            let product = product(&inputs[0], &weight)?;
            Ok([super::tests::product(&product, &inputs[0])?])
        }
    };
    let mut results = Vec::new();
    for again in [false, true] {
        let tape = Tape::new();
        let leaf = tape.leaf(x.clone());
        let [y] = match again {
            true => recompute("stretch", &[&leaf], stretch.clone()).unwrap(),
            false => stretch(std::slice::from_ref(&leaf)).unwrap(),
        };
        let mut gradients = Gradients::new();
        let seed = tensor([2, 2], &[1.0, 1.0, 2.0, 0.5]);
        tape.backward_from(vec![(&y, seed)], &mut gradients)
            .unwrap();
        let dx = tape.gradient(&leaf).unwrap().unwrap();
        let dw = gradients.get(id).unwrap().unwrap();
        results.push([y.into_tensor().unwrap(), dx, dw].map(|t| t.to_vec::<f32>().unwrap()));
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0][1], [1.0, -4.0, -24.0, 12.0]); // 2 w x dy
}

#[test]
fn cleared_gradients_are_gone_but_their_memory_stays() {
    let id = ParamId::fresh();
    let weight = tensor([2], &[3.0, 5.0]);
    let mut gradients = Gradients::new();
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let tape = Tape::new();
        let x = tape.constant(tensor([2], &[1.0, 2.0]));
        let y = product(&x, &Var::param(id, weight.clone())).unwrap();
        tape.backward_from(vec![(&y, tensor([2], &[1.0, 1.0]))], &mut gradients)
            .unwrap();
        let gradient = gradients.get(id).unwrap().unwrap();
        assert_eq!(gradient.to_vec::<f32>().unwrap(), [1.0, 2.0]);
        addresses.push(gradient.view().ptr());
        drop(gradient);
        gradients.clear();
        assert!(gradients.get(id).unwrap().is_none());
    }
    assert_eq!(addresses[0], addresses[1]);
}
