//! How good answers are: of classes, of labels, of values.

use serpens_core::{Error, Result, expect_count};
use serpens_data::{IGNORE, Numbers};
use serpens_nn::{Answer, HeadConfig};
use serpens_ops::cross_entropy::check_targets;

const OP: &str = "metrics";

/// What is told of answers, by what they are.
#[derive(Clone, Debug, PartialEq)]
pub enum Metrics {
    /// One class each.
    Class(ClassMetrics),
    /// Any of several labels.
    Labels(LabelMetrics),
    /// Values.
    Values(ValueMetrics),
}

impl Metrics {
    /// Of no answers yet.
    pub fn of(head: &HeadConfig) -> Self {
        let outputs = head.outputs;
        match head.answer {
            Answer::Class => Self::Class(ClassMetrics::new(outputs)),
            Answer::Labels => Self::Labels(LabelMetrics::new(outputs)),
            Answer::Values => Self::Values(ValueMetrics::new(outputs)),
        }
    }

    /// Adds answers, (…, outputs), and their targets: a class each, or as many values as there are outputs.
    ///
    /// # Errors
    /// Targets of another kind or number, outputs that are not finite.
    pub fn add(&mut self, outputs: &[f32], targets: &Numbers) -> Result<()> {
        match (self, targets) {
            (Self::Class(metrics), Numbers::Ids(classes)) => metrics.add(outputs, classes),
            (Self::Labels(metrics), Numbers::Values(labels)) => metrics.add(outputs, labels),
            (Self::Values(metrics), Numbers::Values(values)) => metrics.add(outputs, values),
            _ => Err(Error::Missing {
                op: OP,
                what: "targets of the kind that is answered",
            }),
        }
    }

    /// The figures by name, the most telling first; those left out that are not defined for what was seen.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let figures = match self {
            Self::Class(it) => vec![
                ("accuracy", it.accuracy()),
                ("f1", it.macro_f1()),
                ("auroc", it.macro_auroc()),
                ("cross_entropy", it.cross_entropy()),
            ],
            Self::Labels(it) => vec![
                ("accuracy", it.accuracy()),
                ("f1", it.macro_f1()),
                ("auroc", it.macro_auroc()),
            ],
            Self::Values(it) => vec![("mae", it.mae()), ("rmse", it.rmse())],
        };
        let told = |(name, value): (&str, Option<f64>)| Some((name.to_owned(), value?));
        figures.into_iter().filter_map(told).collect()
    }
}

/// How well classes are told apart.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMetrics {
    classes: usize,
    /// Σ −ln p(target), in nats.
    sum: f64,
    targets: u64,
    /// (classes, classes): how many of a class were taken for which.
    confusion: Vec<u64>,
    /// Of each class ln p − ln(1 − p), by which it is told from all others.
    each: LabelMetrics,
}

impl ClassMetrics {
    /// Of no answers yet.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            sum: 0.0,
            targets: 0,
            confusion: vec![0; classes * classes],
            each: LabelMetrics::new(classes),
        }
    }

    /// Adds logits (targets, classes); targets that are [`IGNORE`] are passed over.
    ///
    /// # Errors
    /// Fewer or more logits; a target that is no class; logits that are not finite.
    pub fn add(&mut self, logits: &[f32], targets: &[u32]) -> Result<()> {
        expect_count(OP, "logits", targets.len() * self.classes, logits.len())?;
        check_targets(targets, self.classes)?;
        check_finite(logits)?;
        for (logits, &target) in logits.chunks(self.classes.max(1)).zip(targets) {
            if target != IGNORE {
                self.add_one(logits, target as usize);
            }
        }
        Ok(())
    }

    fn add_one(&mut self, logits: &[f32], target: usize) {
        let larger = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        let answer = (1..self.classes).fold(0, larger); // the first of the largest
        let shifted = |class: usize| f64::from(logits[class]) - f64::from(logits[answer]);
        let others = (0..self.classes).filter(|class| *class != answer);
        let others: f64 = others.map(|class| shifted(class).exp()).sum();
        for (class, seen) in self.each.labels.iter_mut().enumerate() {
            // Of the likeliest one the others are not found as a difference.
            let rest = match class == answer {
                true => others,
                false => 1.0 + others - shifted(class).exp(),
            };
            seen.push(((shifted(class) - rest.ln()) as f32, class == target));
        }
        self.targets += 1;
        self.sum += (1.0 + others).ln() - shifted(target);
        self.confusion[target * self.classes + answer] += 1;
    }

    /// How many of each class were taken for which: (classes, classes), a row for each target.
    pub fn confusion(&self) -> &[u64] {
        &self.confusion
    }

    /// The share of right answers.
    pub fn accuracy(&self) -> Option<f64> {
        let right = (0..self.classes).map(|class| self.confusion[class * (self.classes + 1)]);
        share(right.sum(), self.targets)
    }

    /// Mean −ln p(target), in nats.
    pub fn cross_entropy(&self) -> Option<f64> {
        (self.targets > 0).then(|| self.sum / self.targets as f64)
    }

    /// 2 TP / (2 TP + FP + FN) of a class; none where it neither came nor was answered.
    pub fn f1(&self, class: usize) -> Option<f64> {
        let row = self.confusion.chunks(self.classes.max(1)).nth(class)?;
        let rows = self.confusion.chunks(self.classes);
        let answered: u64 = rows.map(|row| row[class]).sum();
        share(2 * row[class], row.iter().sum::<u64>() + answered)
    }

    /// The mean of [`ClassMetrics::f1`] over the classes that have one.
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.classes).filter_map(|class| self.f1(class)))
    }

    /// The area under the receiver's operating curve of one class against all others: how often a sequence of it has
    /// the larger probability of it than another, half where they are equal. None where it always came, or never.
    pub fn auroc(&self, class: usize) -> Option<f64> {
        self.each.auroc(class)
    }

    /// The mean of [`ClassMetrics::auroc`] over the classes that have one.
    pub fn macro_auroc(&self) -> Option<f64> {
        self.each.macro_auroc()
    }
}

/// How well each of several labels is told.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelMetrics {
    /// Of each label its logits, and whether it was there.
    labels: Vec<Vec<(f32, bool)>>,
}

impl LabelMetrics {
    /// Of no answers yet.
    pub fn new(labels: usize) -> Self {
        let labels = vec![Vec::new(); labels];
        Self { labels }
    }

    /// Adds logits (…, labels) and targets alike: a label is there from probability ½ on.
    ///
    /// # Errors
    /// As many targets as logits are needed, and as many of each as make whole rows; logits that are not finite.
    pub fn add(&mut self, logits: &[f32], targets: &[f32]) -> Result<()> {
        let count = check_rows(self.labels.len(), logits, targets)?;
        for (logits, targets) in logits.chunks(count).zip(targets.chunks(count)) {
            let pairs = logits.iter().zip(targets);
            for (seen, (&logit, &target)) in self.labels.iter_mut().zip(pairs) {
                seen.push((logit, target >= 0.5));
            }
        }
        Ok(())
    }

    /// The share of right decisions, at probability ½, over all labels.
    pub fn accuracy(&self) -> Option<f64> {
        let all = self.labels.iter().flatten();
        let right = all
            .clone()
            .filter(|(logit, there)| (*logit >= 0.0) == *there);
        share(right.count() as u64, all.count() as u64)
    }

    /// 2 TP / (2 TP + FP + FN) of a label at probability ½; none where it neither was there nor was answered.
    pub fn f1(&self, label: usize) -> Option<f64> {
        let count = |wanted: fn(bool, bool) -> u64| {
            let seen = self.labels.get(label).into_iter().flatten();
            seen.map(|&(logit, there)| wanted(logit >= 0.0, there))
                .sum()
        };
        let right = count(|answered, there| u64::from(answered && there));
        share(
            2 * right,
            count(|answered, there| u64::from(answered) + u64::from(there)),
        )
    }

    /// The mean of [`LabelMetrics::f1`] over the labels that have one.
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.labels.len()).filter_map(|label| self.f1(label)))
    }

    /// As [`ClassMetrics::auroc`], of a label.
    pub fn auroc(&self, label: usize) -> Option<f64> {
        auroc(self.labels.get(label)?.clone())
    }

    /// The mean of [`LabelMetrics::auroc`] over the labels that have one.
    pub fn macro_auroc(&self) -> Option<f64> {
        mean((0..self.labels.len()).filter_map(|label| self.auroc(label)))
    }
}

/// How far values are off.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueMetrics {
    /// Of each value Σ |error| and Σ error².
    sums: Vec<[f64; 2]>,
    count: u64,
}

impl ValueMetrics {
    /// Of no answers yet.
    pub fn new(values: usize) -> Self {
        let sums = vec![[0.0; 2]; values];
        Self { sums, count: 0 }
    }

    /// Adds values (…, values) and targets alike.
    ///
    /// # Errors
    /// As those of [`LabelMetrics::add`].
    pub fn add(&mut self, values: &[f32], targets: &[f32]) -> Result<()> {
        let count = check_rows(self.sums.len(), values, targets)?;
        for (values, targets) in values.chunks(count).zip(targets.chunks(count)) {
            for ((value, target), [off, squared]) in values.iter().zip(targets).zip(&mut self.sums)
            {
                let error = f64::from(*value) - f64::from(*target);
                *off += error.abs();
                *squared += error * error;
            }
            self.count += 1;
        }
        Ok(())
    }

    /// The mean absolute error and the root of the mean squared one, of one of the values.
    pub fn errors(&self, value: usize) -> Option<[f64; 2]> {
        let [off, squared] = *self.sums.get(value)?;
        let count = self.count as f64;
        (self.count > 0).then(|| [off / count, (squared / count).sqrt()])
    }

    /// The mean absolute error over all values.
    pub fn mae(&self) -> Option<f64> {
        self.over_all(0)
    }

    /// The root of the mean squared error over all values.
    pub fn rmse(&self) -> Option<f64> {
        self.over_all(1).map(f64::sqrt)
    }

    fn over_all(&self, which: usize) -> Option<f64> {
        let count = self.count as f64;
        let of_each = self.sums.iter().map(|sums| sums[which] / count);
        mean(of_each).filter(|_| self.count > 0)
    }
}

/// How often a score that belongs is above one that does not, half where they are equal.
fn auroc(mut scores: Vec<(f32, bool)>) -> Option<f64> {
    scores.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut above) = (0_u64, 0.0); // those that do not belong so far, and pairs in the right order
    for equal in scores.chunk_by(|a, b| a.0 == b.0) {
        let belong = equal.iter().filter(|(_, belongs)| *belongs).count() as u64;
        let others = equal.len() as u64 - belong;
        above += belong as f64 * (below as f64 + others as f64 / 2.0);
        below += others;
    }
    let belong = scores.len() as u64 - below;
    (below > 0 && belong > 0).then(|| above / (below as f64 * belong as f64))
}

/// Columns of a row, where both are of as many whole rows.
fn check_rows(columns: usize, outputs: &[f32], targets: &[f32]) -> Result<usize> {
    let columns = columns.max(1);
    let whole = outputs.len().next_multiple_of(columns);
    expect_count(OP, "outputs", whole, outputs.len())?;
    expect_count(OP, "targets", outputs.len(), targets.len())?;
    check_finite(outputs).map(|()| columns)
}

fn check_finite(outputs: &[f32]) -> Result<()> {
    let wrong = outputs.iter().find(|output| !output.is_finite());
    let wrong = wrong.map(|&got| Error::Value {
        op: OP,
        what: "an output of the model",
        expected: "finite",
        got: got.into(),
    });
    wrong.map_or(Ok(()), Err)
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
