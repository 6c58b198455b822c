//! Labelled records: windows of them, and the class of each.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::Split;
use crate::error::{Error, Result, check_batch, check_size};
use crate::labels::Labels;
use crate::permutation::{moved, spread, visit};
use crate::records::Records;
use crate::source::{Batch, Bounds, IGNORE, Numbers, Source};

const PLACE: &str = "classify";

/// More classes than this are mostly a misunderstanding, such as names of files.
const MOST_CLASSES: usize = 4096;

/// Records with a class each, in two parts.
///
/// Held out are the groups ([`Labels`]) that are named, or else, of all classes, the share of each class's groups that is
/// asked for, one at least: those whose names have the least hash. Where a class has one group, it is not held out, but the
/// last share of each of its records.
#[derive(Clone, Debug)]
pub struct LabelledRecords {
    records: Arc<Records>,
    classes: Vec<String>,
    /// Of each part, of each class the positions of its records.
    parts: [Vec<Vec<Range<usize>>>; 2],
    unlabelled: Vec<String>,
}

/// A stretch of a record that a model reads at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The class.
    pub class: usize,
    /// What is read.
    pub positions: Range<usize>,
}

impl LabelledRecords {
    /// Gives the records, of the files below `root`, their labels.
    ///
    /// # Errors
    /// [`Error::Labels`], a table that cannot be read; [`Error::Classes`] where there are fewer than two or more than
    /// 4,096 classes; [`Error::NoGroup`] for a group to hold out that there is not; [`Error::InvalidFraction`].
    pub fn new(
        records: Records,
        root: &Path,
        labels: &Labels,
        hold_out: &[String],
        fraction: f64,
    ) -> Result<Self> {
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::InvalidFraction(fraction));
        }
        let labelled = labels.of(root, records.all())?;
        let present = labelled.iter().flatten();
        let classes: BTreeSet<&String> = present.clone().map(|(label, _)| label).collect();
        if !(2..=MOST_CLASSES).contains(&classes.len()) {
            let example = classes.first().map(|name| format!(" (`{name}`)"));
            return Err(Error::Classes(classes.len(), example.unwrap_or_default()));
        }
        let groups: BTreeSet<&String> = present.map(|(_, group)| group).collect();
        for name in hold_out {
            if !groups.contains(name) {
                let known = groups.iter().take(5).map(|name| name.to_string());
                return Err(Error::NoGroup(
                    name.clone(),
                    known.collect::<Vec<_>>().join(", "),
                ));
            }
        }
        let classes: Vec<String> = classes.into_iter().cloned().collect();
        let mut parts = [
            vec![Vec::new(); classes.len()],
            vec![Vec::new(); classes.len()],
        ];
        let mut unlabelled = Vec::new();
        // Of each class, the groups and their records.
        let mut of_classes =
            vec![BTreeMap::<(u64, &String), Vec<Range<usize>>>::new(); classes.len()];
        for (record, labelled) in records.all().iter().zip(&labelled) {
            let Some((label, group)) = labelled else {
                unlabelled.push(format!("{}:{}", record.file.display(), record.name));
                continue;
            };
            let class = classes.binary_search(label).expect("all are there");
            let ranges = of_classes[class].entry((hash(group), group)).or_default();
            ranges.push(record.positions.clone());
        }
        let (mut held, mut cut) = (BTreeSet::from_iter(hold_out), BTreeSet::new());
        if hold_out.is_empty() {
            let alone = of_classes.iter().filter(|groups| groups.len() == 1);
            cut.extend(alone.flat_map(|groups| groups.keys().map(|(_, name)| *name)));
        }
        for groups in of_classes.iter().filter(|_| hold_out.is_empty()) {
            let wanted = (groups.len() as f64 * fraction).ceil() as usize;
            for key in groups.keys().filter(|(_, name)| !cut.contains(name)) {
                let here = groups.keys().filter(|(_, name)| held.contains(name));
                // What other classes hold out counts, and none is left with nothing to learn.
                let keeps = |others: &BTreeMap<(u64, &String), _>| {
                    let left = |other: &&(u64, &String)| *other != key && !held.contains(other.1);
                    !others.contains_key(key) || others.keys().any(|other| left(&other))
                };
                if here.count() < wanted && of_classes.iter().all(keeps) {
                    held.insert(key.1);
                }
            }
        }
        for (class, groups) in of_classes.iter().enumerate() {
            let [train, held_out] = &mut parts;
            let (train, held_out) = (&mut train[class], &mut held_out[class]);
            for ((_, name), ranges) in groups {
                match (cut.contains(name), held.contains(name)) {
                    (true, _) => {
                        for range in ranges {
                            let kept = (range.len() as f64 * (1.0 - fraction)) as usize;
                            train.push(range.start..range.start + kept);
                            held_out.push(range.start + kept..range.end);
                        }
                    }
                    (false, true) => held_out.extend_from_slice(ranges),
                    (false, false) => train.extend_from_slice(ranges),
                }
            }
            train.retain(|range| !range.is_empty());
            held_out.retain(|range| !range.is_empty());
            if train.is_empty() {
                return Err(Error::NothingToLearn(classes[class].clone()));
            }
        }
        Ok(Self {
            records: records.into(),
            classes,
            parts,
            unlabelled,
        })
    }

    /// The names of the classes, sorted: the number of a class is its place.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// All records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The records without a label, which are passed over.
    pub fn unlabelled(&self) -> &[String] {
        &self.unlabelled
    }

    /// How many records of each class a part has.
    pub fn counts(&self, split: Split) -> Vec<usize> {
        self.part(split).iter().map(Vec::len).collect()
    }

    fn part(&self, split: Split) -> &[Vec<Range<usize>>] {
        &self.parts[usize::from(split == Split::Validation)]
    }

    /// The windows of a part's records: each record from its beginning on in windows of `length`, the last of which
    /// ends with the record; where those are more than `most`, so many of them, spread evenly.
    pub fn windows(&self, split: Split, length: usize, most: usize) -> Vec<Window> {
        let classes = self.part(split).iter().enumerate();
        let all: Vec<Window> = classes
            .flat_map(|(class, ranges)| {
                let windows = ranges.iter().flat_map(move |range| windows(range, length));
                windows.map(move |positions| Window { class, positions })
            })
            .collect();
        spread(all, most)
    }

    /// A batch of windows, rows of `length` positions; see [`Records::batch`]. What rows are filled with has no class.
    ///
    /// # Errors
    /// A temporary file that cannot be read.
    pub fn batch(&self, windows: &[Window], length: usize) -> Result<Batch<Numbers>> {
        let positions: Vec<_> = windows.iter().map(|one| one.positions.clone()).collect();
        let targets = windows.iter().flat_map(|window| {
            let filled = (window.positions.len() < length).then_some(IGNORE);
            std::iter::once(window.class as u32).chain(filled)
        });
        Ok(Batch {
            targets: Numbers::Ids(targets.collect()),
            ..self.records.batch(&positions, length)?
        })
    }

    /// Random windows of the part that is learnt from, `batch` rows of `length` positions at a time, in an order of
    /// this seed. The classes take turns, so that each is seen as often; those of a class are all visited once before
    /// one is visited again, at offsets that differ from time to time.
    ///
    /// # Errors
    /// [`Error::Size`] for impossible sizes.
    pub fn source(
        &self,
        vocabulary: usize,
        batch: usize,
        length: usize,
        seed: u64,
    ) -> Result<LabelledSource> {
        check_size(PLACE, "length", length, 1..=usize::MAX)?;
        check_batch(PLACE, batch, length)?;
        let first_windows = |ranges: &Vec<Range<usize>>| {
            let mut before = 0;
            let first = ranges.iter().map(|range| {
                let first = before;
                before += (range.len() / length).max(1) as u64;
                first
            });
            let first = first.collect();
            (first, before)
        };
        Ok(LabelledSource {
            windows: self.part(Split::Train).iter().map(first_windows).collect(),
            fingerprint: self.fingerprint()?,
            labelled: self.clone(),
            vocabulary,
            batch,
            length,
            seed,
        })
    }

    /// A number that differs where the records, their places or their classes do.
    fn fingerprint(&self) -> Result<u64> {
        let mut all = XxHash3_64::new();
        all.write(&self.records.fingerprint()?.to_le_bytes());
        for (class, range) in self
            .part(Split::Train)
            .iter()
            .enumerate()
            .flat_map(|(class, ranges)| ranges.iter().map(move |range| (class, range)))
        {
            for number in [class, range.start, range.end] {
                all.write(&(number as u64).to_le_bytes());
            }
        }
        self.classes
            .iter()
            .for_each(|name| all.write(name.as_bytes()));
        Ok(all.finish())
    }
}

fn hash(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}

/// The windows of a record; see [`LabelledRecords::windows`].
pub fn windows(
    positions: &Range<usize>,
    length: usize,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = (positions.start, positions.end);
    let last = end.saturating_sub(length).max(start);
    let starts = (start..last).step_by(length.max(1)).chain([last]);
    starts.map(move |from| from..end.min(from + length))
}

/// What [`LabelledRecords::source`] draws.
#[derive(Clone, Debug)]
pub struct LabelledSource {
    labelled: LabelledRecords,
    fingerprint: u64,
    /// Of each class, the number of the first window of each record, and how many there are.
    windows: Vec<(Vec<u64>, u64)>,
    vocabulary: usize,
    batch: usize,
    length: usize,
    seed: u64,
}

impl LabelledSource {
    /// The `number`-th window since the beginning of the stream.
    pub fn window(&self, number: u128) -> Window {
        let classes = self.windows.len() as u128;
        let (turn, class) = (number / classes, (number % classes) as usize);
        let (first, count) = &self.windows[class];
        let own = |epoch: u64| {
            epoch
                .wrapping_mul(classes as u64)
                .wrapping_add(class as u64)
        };
        let (window, share) = visit(self.seed, turn, *count, own);
        let window = window as u64;
        let record = first.partition_point(|&first| first <= window) - 1;
        let range = &self.labelled.part(Split::Train)[class][record];
        let here = (window - first[record]) as usize;
        let left = range
            .len()
            .saturating_sub((range.len() / self.length).max(1) * self.length);
        let start = range.start + here * self.length + moved(share, left);
        Window {
            class,
            positions: start..range.end.min(start + self.length),
        }
    }
}

impl Source for LabelledSource {
    fn batch(&self, index: u64) -> Result<Batch<Numbers>> {
        let first = u128::from(index) * self.batch as u128;
        let windows: Vec<Window> = (0..self.batch as u128)
            .map(|row| self.window(first + row))
            .collect();
        self.labelled.batch(&windows, self.length)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: self.vocabulary,
            targets: self.labelled.classes.len(),
        }
    }

    fn description(&self) -> String {
        let (batch, length, seed) = (self.batch, self.length, self.seed);
        let data = self.fingerprint;
        let positions = self.labelled.records.positions();
        format!(
            "{positions} labelled positions {data:016x}, batch {batch}, length {length}, seed {seed}"
        )
    }
}
