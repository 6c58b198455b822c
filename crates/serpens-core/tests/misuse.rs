//! What a program can do wrong with shapes, tensors and the tape: each is an error that it can match on, or right.

use std::cell::RefCell;
use std::rc::Rc;

use serpens_core::cuda::{Graph, Properties, rehearse};
use serpens_core::tape::{Backward, BackwardContext, recompute, record, tracked};
use serpens_core::{
    DType, Device, Error, GradCheckOptions, Gradients, MAX_RANK, Mat, MatMut, ParamId, Result,
    Shape, Tape, Tensor, Var, gradcheck,
};

fn ones(shape: impl Into<Shape>) -> Tensor {
    Tensor::full(shape, 1.0_f32, Device::cpu()).unwrap()
}

/// What an operation's backward does, from outside.
type Rule = dyn Fn(&mut BackwardContext<'_, '_>) -> Result<()>;

struct Own(Rc<Rule>);

impl Backward for Own {
    fn backward(self: Box<Self>, context: &mut BackwardContext<'_, '_>) -> Result<()> {
        (self.0)(context)
    }
}

/// The identity, with this for its backward.
fn own(x: &Var, rule: impl Fn(&mut BackwardContext<'_, '_>) -> Result<()> + 'static) -> Var {
    let operation = tracked(&[Some(x)]).then(|| Box::new(Own(Rc::new(rule))) as Box<dyn Backward>);
    let y = x.tensor().unwrap().clone();
    let [y] = record("own", &[Some(x)], [y], operation).unwrap();
    y
}

/// What a backward pass through an operation with this rule fails with.
fn failure(rule: impl Fn(&mut BackwardContext<'_, '_>) -> Result<()> + 'static) -> Error {
    let tape = Tape::new();
    let y = own(&tape.leaf(ones(1)), rule);
    let passed = tape.backward(&y, 1.0, &mut Gradients::new());
    passed.expect_err("it is wrong")
}

#[test]
fn values_of_another_tape_are_refused() {
    let (tape, other) = (Tape::new(), Tape::new());
    let mine = tape.leaf(ones(1));
    let (first, second) = (other.leaf(ones(1)), other.leaf(ones(1)));
    // The number of the first is one that this tape has as well, that of the second is not.
    for foreign in [&first, &second, &other.constant(ones(1))] {
        let passed = tape.backward(foreign, 1.0, &mut Gradients::new());
        assert!(matches!(passed, Err(Error::TapeMismatch { .. })));
        let asked = tape.gradient(foreign);
        assert!(matches!(asked, Err(Error::TapeMismatch { .. })));
    }
    let seeds = vec![(&mine, ones(1)), (&second, ones(1))];
    let passed = tape.backward_from(seeds, &mut Gradients::new());
    assert!(matches!(passed, Err(Error::TapeMismatch { .. })));
    assert!(tape.gradient(&mine).unwrap().is_none(), "nothing was done");
}

#[test]
fn positions_that_an_operation_does_not_have_fail_its_backward() {
    let range = |error: Error, end: usize| match error {
        Error::Range {
            op: "own",
            expected,
            got: 7,
            ..
        } => assert_eq!(expected, 0..end),
        other => panic!("{other}"),
    };
    range(failure(|context| context.add(7, ones(1))), 1);
    range(failure(|context| context.accumulator(7).map(|_| ())), 1);
    range(failure(|context| context.overwrite([0, 7]).map(|_| ())), 1);
    // Also where there is nothing to return an error by, or where it is dropped.
    let asks = |context: &mut BackwardContext<'_, '_>| {
        assert!(!context.wants(7));
        Ok(())
    };
    range(failure(asks), 1);
    let drops = |context: &mut BackwardContext<'_, '_>| {
        let _ = context.add(7, ones(1));
        Ok(())
    };
    range(failure(drops), 1);
}

#[test]
fn gradients_that_do_not_fit_fail_the_backward() {
    let shape = failure(|context| context.add(0, ones(3)));
    assert!(matches!(shape, Error::Shape { .. }), "{shape}");
    let integers = Tensor::zeros(1, DType::U32, Device::cpu()).unwrap();
    let dtype = failure(move |context| context.add(0, integers.clone()));
    assert!(matches!(dtype, Error::DType { .. }), "{dtype}");
    let [card, ..] = Properties::generations();
    let programs = rehearse(&card, |device| {
        let elsewhere = Tensor::zeros(1, DType::F32, device)?;
        let error = failure(move |context| context.add(0, elsewhere.clone()));
        assert!(matches!(error, Error::Device { .. }), "{error}");
        Ok::<_, Error>(())
    });
    programs.unwrap();
}

#[test]
fn a_backward_may_not_ask_its_own_tape_but_may_make_values_on_it() {
    let tape = Tape::new();
    let leaf = tape.leaf(ones(1));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let rule = {
        let (tape, leaf, seen) = (tape.clone(), leaf.clone(), Rc::clone(&seen));
        move |context: &mut BackwardContext<'_, '_>| {
            let mut seen = seen.borrow_mut();
            seen.extend(tape.gradient(&leaf).err());
            seen.extend(tape.backward(&leaf, 1.0, &mut Gradients::new()).err());
            let inside = own(&tape.leaf(ones(1)), |context| context.add(0, ones(1)));
            assert!(inside.tape().is_some());
            context.add(0, ones(1))
        }
    };
    let y = own(&leaf, rule);
    tape.backward(&y, 1.0, &mut Gradients::new()).unwrap();
    let seen = seen.take();
    assert!(matches!(
        seen[..],
        [
            Error::InUse { op: "gradient" },
            Error::InUse { op: "backward" }
        ]
    ));
    // When it has ended, the tape is as good as before.
    let gradient = tape.gradient(&leaf).unwrap().unwrap();
    assert_eq!(gradient.to_vec::<f32>().unwrap(), [1.0]);
    let again = own(&leaf, |context| context.add(0, ones(1)));
    tape.backward(&again, 1.0, &mut Gradients::new()).unwrap();
    let gradient = tape.gradient(&leaf).unwrap().unwrap();
    assert_eq!(gradient.to_vec::<f32>().unwrap(), [2.0]);
}

#[test]
fn a_recomputed_stretch_that_gives_anothers_value_is_refused() {
    let tape = Tape::new();
    let x = tape.leaf(ones(1));
    let captured = Tape::new().leaf(ones(1));
    let forward = recompute("stretch", &[&x], move |_| Ok([captured.clone()]));
    assert!(matches!(
        forward,
        Err(Error::TapeMismatch { op: "stretch" })
    ));
    // One that does so the second time only fails the backward pass.
    let (first, other) = (RefCell::new(true), Tape::new().leaf(ones(1)));
    let changing = move |inputs: &[Var]| match first.replace(false) {
        true => Ok([inputs[0].clone()]),
        false => Ok([other.clone()]),
    };
    let [y] = recompute("stretch", &[&x], changing).unwrap();
    let passed = tape.backward(&y, 1.0, &mut Gradients::new());
    assert!(matches!(passed, Err(Error::TapeMismatch { .. })));
}

#[test]
fn columns_that_are_not_there_are_an_error_whatever_their_numbers() {
    let x = Var::from(ones([2, 3]));
    #[expect(clippy::reversed_empty_ranges, reason = "what a program may ask for")]
    for range in [usize::MAX..usize::MAX, usize::MAX..0, 0..usize::MAX, 2..1] {
        assert!(matches!(x.columns(range), Err(Error::Shape { .. })));
    }
}

#[test]
fn shapes_beyond_the_address_space_are_an_error_with_or_without_values() {
    const MAX: usize = usize::MAX;
    let device = Device::cpu();
    for shape in [
        Shape::from([0, MAX]),
        Shape::from([MAX, 0]),
        Shape::from([0, MAX, MAX]),
        Shape::from([MAX, MAX, 0]),
        Shape::from([MAX, 2]),
    ] {
        let zeros = Tensor::zeros(shape, DType::F32, device);
        assert!(matches!(zeros, Err(Error::TooLarge { .. })), "{shape}");
        let full = Tensor::full(shape, 1.0_f32, device);
        assert!(matches!(full, Err(Error::TooLarge { .. })), "{shape}");
        assert!(ones(3).reshape(shape).is_err(), "{shape}");
        assert!(ones(0).reshape(shape).is_err(), "{shape}");
    }
    assert_eq!(Shape::from([MAX, 2]).count(), MAX);
    assert_eq!(Shape::from([MAX, 2, 0]).count(), 0);
    assert_eq!(Shape::from([MAX, 2, 5]).rows(), MAX);
    // As many rows of nothing as there may be take no time.
    let rows = isize::MAX as usize / 8;
    let none = Tensor::zeros([rows, 0], DType::F32, device).unwrap();
    assert_eq!((none.len(), none.view().rows()), (0, rows));
    assert_eq!(none.reshape([0, 5]).unwrap().to_vec::<f32>().unwrap(), []);
}

#[test]
fn a_wrong_count_is_told_before_memory_is_asked_for() {
    let few = Tensor::from_slice([1 << 40, 1 << 10], &[1.0_f32], Device::cpu());
    assert!(matches!(few, Err(Error::Count { got: 1, .. })), "{few:?}");
    let tape = Tape::new();
    let loss = tape.leaf(ones([1, 2]));
    let passed = tape.backward(&loss, 1.0, &mut Gradients::new());
    assert!(matches!(passed, Err(Error::Shape { .. })));
}

#[test]
fn more_axes_than_there_may_be_are_an_error() {
    let dims = [1; MAX_RANK + 1];
    let wrong = Shape::try_from(&dims[..]);
    assert!(matches!(wrong, Err(Error::Range { got: 7, .. })));
    let right = Shape::try_from(&dims[1..]).unwrap();
    assert_eq!(right, Shape::from([1; MAX_RANK]));
}

#[test]
#[should_panic(expected = "rows beyond the data")]
fn a_matrix_whose_rows_overflow_is_refused() {
    MatMut::new(&mut [0.0_f32; 4], 1 << 63, 2, 2, 0);
}

#[test]
#[should_panic(expected = "columns beyond the row")]
fn a_matrix_whose_columns_overflow_is_refused() {
    Mat::new(&[0.0_f32; 4], 2, 2, 2, usize::MAX);
}

#[test]
fn a_recording_inside_a_recording_is_refused() {
    let [card, ..] = Properties::generations();
    let inner = |device| Graph::capture(device, || Ok::<_, Error>(())).map(|_| ());
    let programs = rehearse(&card, |device| {
        let nested = Graph::capture(device, || inner(device));
        assert!(matches!(nested.err(), Some(Error::InUse { .. })));
        inner(device) // the first has ended
    });
    assert!(programs.unwrap().is_empty());
    let on_processor = Graph::capture(Device::cpu(), || Ok::<_, Error>(())).err();
    assert!(matches!(on_processor, Some(Error::NoDevice { .. })));
}

#[test]
fn a_gradient_check_leaves_integers_alone_and_passes_errors_on() {
    let ids = Tensor::from_slice([2], &[1_u32, 2], Device::cpu()).unwrap();
    let inputs = [ones(2), ids];
    let of_first = |inputs: &[Var]| {
        assert_eq!(inputs[1].dtype(), DType::U32);
        Ok(own(&inputs[0], |context| context.add(0, ones(2))))
    };
    // The rule is wrong: the gradient is the one that arrives, not 1.
    let wrong = gradcheck(of_first, &inputs, GradCheckOptions::default()).unwrap();
    assert!(!wrong.ok && wrong.input == 0, "{wrong:?}");
    let other = Tape::new().leaf(ones(2));
    let foreign = gradcheck(|_| Ok(other.clone()), &inputs, GradCheckOptions::default());
    assert!(matches!(foreign, Err(Error::TapeMismatch { .. })));
}

#[test]
fn a_value_says_what_it_is_but_not_its_numbers() {
    let tape = Tape::new();
    let leaf = tape.leaf(ones([2, 3]));
    let debug = |var: &Var| format!("{var:?}");
    assert_eq!(debug(&leaf), "Var f32 (2, 3) on cpu, tracked");
    let columns = leaf.columns(1..3).unwrap();
    assert_eq!(debug(&columns), "Var f32 (2, 2) on cpu, tracked");
    assert_eq!(debug(&leaf.detach()), "Var f32 (2, 3) on cpu, not tracked");
    let constant = tape.constant(ones(1));
    assert_eq!(debug(&constant), "Var f32 (1) on cpu, constant");
    let param = Var::param(ParamId::fresh(), ones(1));
    assert_eq!(debug(&param), "Var f32 (1) on cpu, a parameter");
}
