//! Records of files: labelled ones, and series.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::slice;

use serpens_data::{
    Content, DnaConfig, Error, IGNORE, LabelledRecords, Labels, Numbers, Records, Series, Source,
    Split, TableConfig, Tokenizer, scaled, windows,
};
use tempfile::TempDir;

fn records(pattern: &Path, content: &Content) -> Records {
    let tokenizer = Tokenizer::of(content).unwrap();
    let pattern = pattern.to_str().unwrap();
    Records::open(pattern, content, &tokenizer, &mut |_, _| Ok::<_, Error>(())).unwrap()
}

fn write(dir: &TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Files of three classes, of which the k-th has k letters at least, in folders of the classes' names.
fn folders() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (class, files) in [("a", 12), ("b", 5), ("c", 1)] {
        for file in 0..files {
            write(
                &dir,
                &format!("{class}/{class}{file}.txt"),
                &class.repeat(20 + 7 * file),
            );
        }
    }
    dir
}

fn labelled(
    dir: &TempDir,
    labels: &str,
    hold_out: &[&str],
    share: f64,
) -> serpens_data::Result<LabelledRecords> {
    let hold_out: Vec<String> = hold_out.iter().map(|name| (*name).to_owned()).collect();
    let (labels, path) = (Labels::from(labels.to_owned()), dir.path());
    LabelledRecords::new(
        records(path, &Content::Text),
        path,
        &labels,
        &hold_out,
        share,
    )
}

#[test]
fn classes_take_turns_and_every_window_of_a_class_comes_before_one_comes_again() {
    let labelled = labelled(&folders(), "", &[], 0.0).unwrap();
    assert_eq!(labelled.classes(), ["a", "b", "c"]);
    let (length, batch) = (16, 4);
    let source = labelled.source(256, batch, length, 7).unwrap();
    let each = [12, 5, 1].map(|files| {
        (0..files)
            .map(|k| ((20 + 7 * k) / length).max(1))
            .sum::<usize>()
    });
    for (class, windows) in each.into_iter().enumerate() {
        for epoch in 0..2 {
            let numbers = (0..windows).map(|i| 3 * (epoch * windows + i) + class);
            let seen: Vec<_> = numbers.map(|n| source.window(n as u128)).collect();
            assert!(seen.iter().all(|window| window.class == class));
            let positions = |window: &serpens_data::Window| window.positions.clone();
            let read: BTreeSet<usize> = seen.iter().flat_map(positions).collect();
            let all: usize = seen.iter().map(|window| window.positions.len()).sum();
            assert_eq!(read.len(), all, "no position twice in an epoch");
        }
    }
    // Any batch at once, and what it says is what stands in the files.
    let drawn = source.batch(3).unwrap();
    assert_eq!(
        drawn,
        labelled
            .source(256, batch, length, 7)
            .unwrap()
            .batch(3)
            .unwrap()
    );
    let other = labelled.source(256, batch, length, 8).unwrap();
    assert!((0..60).any(|n| source.window(n) != other.window(n)));
    let classes = drawn.targets.ids();
    for (row, class) in drawn.inputs.ids().chunks(length).zip(classes) {
        assert!(row.iter().all(|&id| id == u32::from(b'a') + class));
    }
}

#[test]
fn short_records_are_filled_up_with_a_sequence_that_has_no_class() {
    let labelled = labelled(&folders(), "folder", &[], 0.0).unwrap();
    let windows = labelled.windows(Split::Train, 50, usize::MAX);
    let short = windows
        .iter()
        .position(|window| window.positions.len() == 20)
        .unwrap();
    let batch = labelled.batch(&windows[short..short + 1], 50).unwrap();
    assert_eq!(
        batch.targets,
        Numbers::Ids(vec![windows[short].class as u32, IGNORE])
    );
    let starts = batch.starts.unwrap();
    let places: Vec<usize> = (0..50).filter(|&place| starts[place]).collect();
    assert_eq!(places, [0, 20]);
    assert!(batch.inputs.ids()[20..].iter().all(|&id| id == 0));
    let whole = windows
        .iter()
        .find(|window| window.positions.len() == 50)
        .unwrap();
    assert_eq!(
        labelled.batch(slice::from_ref(whole), 50).unwrap().starts,
        None
    );
}

#[test]
fn groups_are_held_out_whole_and_of_a_single_one_the_end() {
    let dir = folders();
    let share = labelled(&dir, "", &[], 0.25).unwrap();
    assert_eq!(share.counts(Split::Validation), [3, 2, 1]);
    assert_eq!(share.counts(Split::Train), [9, 3, 1]);
    let read = |split| {
        let windows = share.windows(split, 8, usize::MAX).into_iter();
        windows
            .flat_map(|window| window.positions)
            .collect::<BTreeSet<usize>>()
    };
    let (train, held_out) = (read(Split::Train), read(Split::Validation));
    assert!(train.is_disjoint(&held_out));
    assert_eq!(train.len() + held_out.len(), share.records().positions());

    let named = labelled(&dir, "{label}{group}.txt", &["0", "3"], 0.1);
    assert!(named.is_err(), "all of c is held out with group 0");
    let named = labelled(&dir, "{label}{group}.txt", &["3"], 0.1).unwrap();
    assert_eq!(named.counts(Split::Validation), [1, 1, 0]);
    let unknown = labelled(&dir, "", &["nobody"], 0.1)
        .unwrap_err()
        .to_string();
    assert!(
        unknown.starts_with("there is no group `nobody`"),
        "{unknown}"
    );
    let own = labelled(&dir, "", &["a7.txt"], 0.1).unwrap();
    assert_eq!(own.counts(Split::Validation), [1, 0, 0]);
}

#[test]
fn a_group_of_several_classes_is_held_out_of_all_or_of_none() {
    let dir = tempfile::tempdir().unwrap();
    for (class, groups) in [("a", 0..9), ("b", 4..20), ("c", 2..12)] {
        for group in groups {
            write(&dir, &format!("{class}_{group}.txt"), "some text to read");
        }
    }
    let split = labelled(&dir, "{label}_{group}.txt", &[], 0.2).unwrap();
    let groups = |part| {
        let windows = split.windows(part, 100, usize::MAX).into_iter();
        let group = |window: serpens_data::Window| {
            let records = split.records().all();
            let record = records
                .iter()
                .find(|record| record.positions == window.positions);
            let name = record.unwrap().file.file_stem().unwrap().to_string_lossy();
            name.split('_').next_back().unwrap().to_owned()
        };
        windows.map(group).collect::<BTreeSet<String>>()
    };
    let (train, held_out) = (groups(Split::Train), groups(Split::Validation));
    assert!(train.is_disjoint(&held_out), "{train:?} {held_out:?}");
    let counts = split.counts(Split::Validation);
    assert!(
        counts[0] >= 2 && counts[1] >= 4 && counts[2] >= 2,
        "{counts:?}"
    );
}

#[test]
fn a_class_of_one_group_is_cut_wherever_the_group_is_and_none_is_left_without_any() {
    let dir = tempfile::tempdir().unwrap();
    for (class, groups) in [
        ("a", &[1][..]),
        ("b", &[1, 2]),
        ("c", &[2, 3]),
        ("d", &[3, 2]),
    ] {
        for group in groups {
            write(&dir, &format!("{class}_{group}.txt"), &"text ".repeat(20));
        }
    }
    let split = labelled(&dir, "{label}_{group}.txt", &[], 0.1).unwrap();
    let [train, held_out] = [Split::Train, Split::Validation].map(|part| split.counts(part));
    // Group 1 is cut in both of its classes, and of 2 and 3 one is held out of all.
    assert_eq!((train[0], held_out[0]), (1, 1));
    assert!(train.iter().all(|&count| count >= 1), "{train:?}");
    assert_eq!((train[2], held_out[2], train[3], held_out[3]), (1, 1, 1, 1));
}

#[test]
fn files_beside_a_table_and_images_that_are_packed_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let recognised = || {
        Content::recognised(dir.path().to_str().unwrap())
            .unwrap()
            .name()
    };
    write(&dir, "labels.csv", "name,label\n");
    assert_eq!(recognised(), "tables");
    write(&dir, "train-images-idx3-ubyte.gz", "x");
    assert_eq!(recognised(), "images");
    write(&dir, "a.wav", "x");
    assert_eq!(recognised(), "sound");
}

#[test]
fn under_a_glob_folders_are_classes_too() {
    let dir = folders();
    let pattern = dir.path().join("*/*.txt");
    let all = records(&pattern, &Content::Text);
    let split = LabelledRecords::new(all, &pattern, &Labels::default(), &[], 0.0).unwrap();
    assert_eq!(split.classes(), ["a", "b", "c"]);
}

#[test]
fn stretches_of_a_contig_stay_together() {
    let dir = tempfile::tempdir().unwrap();
    let contig = |name: &str, unit: &str| format!(">{name}\n{0}NN{0}NN{0}\n", unit.repeat(10));
    for class in ["x", "y"] {
        let contigs: String = (0..4).map(|i| contig(&format!("c{i}"), "ACGT")).collect();
        write(&dir, &format!("{class}.fa"), &contigs);
    }
    let content = Content::Dna(DnaConfig::default());
    let all = records(dir.path(), &content);
    assert_eq!(all.all().len(), 24);
    let hold_out = ["c2".to_owned()];
    let labels = Labels::default();
    let split = LabelledRecords::new(all, dir.path(), &labels, &hold_out, 0.0).unwrap();
    assert_eq!(split.counts(Split::Validation), [3, 3]);
    assert_eq!(split.counts(Split::Train), [9, 9]);
}

#[test]
fn windows_cover_a_record_to_its_end() {
    let of = |length| windows(&(10..31), length).collect::<Vec<_>>();
    assert_eq!(of(8), [10..18, 18..26, 23..31]);
    assert_eq!(of(21), slice::from_ref(&(10..31)));
    assert_eq!(of(7), [10..17, 17..24, 24..31]);
    assert_eq!(of(100), slice::from_ref(&(10..31)));
}

/// A table of two columns: x = t², y = 3.
fn squares(rows: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..rows).map(|t| format!("{},3\n", t * t)).collect();
    write(&dir, "t.csv", &format!("x,y\n{rows}"));
    dir
}

#[test]
fn a_series_asks_for_the_changes_that_come_in_units_of_what_is_learnt_from() {
    let dir = squares(40);
    let table = Content::Table(TableConfig::default());
    let (length, horizon) = (6, 3);
    let series = Series::new(records(dir.path(), &table), length, horizon, 0.25).unwrap();
    let learnt: Vec<f64> = (0..30).map(|t| f64::from(t * t)).collect();
    let mean = learnt.iter().sum::<f64>() / 30.0;
    let deviation = (learnt.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 30.0).sqrt();
    let [x, y] = [series.scale()[0], series.scale()[1]];
    assert!((f64::from(x[0]) - mean).abs() < 1e-3 && (f64::from(x[1]) - deviation).abs() < 1e-3);
    assert_eq!(y, [3.0, 1.0], "what does not change has no unit");

    let batch = series
        .batch(slice::from_ref(&(10..10 + length + horizon)))
        .unwrap();
    let Numbers::Values(targets) = &batch.targets else {
        panic!("changes are values");
    };
    assert_eq!(targets.len(), length * horizon * 2);
    for (at, asked) in targets.chunks(horizon * 2).enumerate() {
        for (ahead, pair) in asked.chunks(2).enumerate() {
            let [now, then] = [10 + at, 11 + at + ahead].map(|t| (t * t) as f64);
            assert!((f64::from(pair[0]) - (then - now) / deviation).abs() < 1e-4);
            assert_eq!(pair[1], 0.0);
        }
    }
    let mut rows = vec![mean as f32, 4.0];
    scaled(&mut rows, series.scale());
    assert!(rows[0].abs() < 1e-3 && (rows[1] - 1.0).abs() < 1e-6);
}

#[test]
fn what_a_series_holds_out_is_never_learnt_from() {
    let dir = squares(200);
    let table = Content::Table(TableConfig::default());
    let series = Series::new(records(dir.path(), &table), 16, 4, 0.2).unwrap();
    assert_eq!(
        (series.rows(Split::Train), series.rows(Split::Validation)),
        (160, 40)
    );
    for window in series.held_out(usize::MAX) {
        assert!(window.end <= 200 && window.end - 4 >= 160, "{window:?}");
        assert_eq!(window.len(), 20);
    }
    assert_eq!(series.held_out(usize::MAX).len(), 10);
    assert_eq!(series.held_out(3).len(), 3);
    let source = series.source(5, 1).unwrap();
    let largest = ((159.0 * 159.0 - f64::from(series.scale()[0][0]))
        / f64::from(series.scale()[0][1])) as f32;
    for index in 0..40 {
        let batch = source.batch(index).unwrap();
        assert_eq!(batch, source.batch(index).unwrap());
        let Numbers::Values(values) = &batch.inputs else {
            panic!("rows are values");
        };
        let Numbers::Values(changes) = &batch.targets else {
            panic!("changes are values");
        };
        let last = values.chunks(16 * 2).zip(changes.chunks(16 * 8));
        for (rows, changes) in last {
            let furthest = rows[15 * 2] + changes[15 * 8 + 6];
            assert!(furthest <= largest + 1e-4, "{furthest} {largest}");
        }
    }
    let short = Series::new(records(squares(20).path(), &table), 16, 4, 0.2);
    assert!(matches!(short, Err(Error::TooShort { .. })));
}
