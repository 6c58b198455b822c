//! Tables of a few rows.

use std::fs;

use super::*;
use crate::files::find;

/// The columns that are read, and their values.
fn table(text: &str, config: &TableConfig) -> Result<(Vec<String>, Vec<f32>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, text).unwrap();
    let names = columns(&path, config)?;
    let mut all = Vec::new();
    read::<Error>(config, &find(path.to_str().unwrap())?[0], &mut |block| {
        assert_eq!(block.begins, all.is_empty());
        let Read::Values { values, channels } = block.read else {
            panic!("values");
        };
        assert_eq!((channels, values.len() % channels), (names.len(), 0));
        all.extend(values);
        Ok(())
    })?;
    Ok((names, all))
}

#[test]
fn columns_of_numbers_are_channels() {
    let text = "\u{feff}date,\"a, b\",c\r\n2020-01-01,1.5,-2e3\r\n\r\n2020-01-02,\"2\", 7 \r\n";
    let (names, values) = table(text, &TableConfig::default()).unwrap();
    assert_eq!(
        (names, values),
        (
            vec!["a, b".into(), "c".into()],
            vec![1.5, -2000.0, 2.0, 7.0]
        )
    );
    let config = TableConfig {
        columns: vec!["c".into(), "a, b".into()],
        ..Default::default()
    };
    assert_eq!(table(text, &config).unwrap().1, [-2000.0, 1.5, 7.0, 2.0]);
    let (names, values) = table("date\n1\n2", &TableConfig::default()).unwrap();
    assert_eq!((names, values), (vec!["date".into()], vec![1.0, 2.0]));
}

#[test]
fn a_first_row_of_numbers_is_data() {
    for (delimiter, text) in [
        (';', "1;2\n3;4\n"),
        ('\t', "1\t2\n3\t4"),
        (',', "1,2\n3,4\n\n"),
    ] {
        let config = TableConfig {
            delimiter,
            ..Default::default()
        };
        let (names, values) = table(text, &config).unwrap();
        assert_eq!(
            (names, values),
            (vec!["1".into(), "2".into()], vec![1.0, 2.0, 3.0, 4.0])
        );
    }
}

#[test]
fn gaps_are_refused_or_hold_the_value_before() {
    let config = TableConfig {
        gaps: Gaps::Hold,
        ..Default::default()
    };
    let text = "a,b\n1,2\n,3\n4, \n";
    assert_eq!(
        table(text, &config).unwrap().1,
        [1.0, 2.0, 1.0, 3.0, 4.0, 3.0]
    );
    assert_eq!(
        refusal(text, &TableConfig::default()),
        ", line 3, column `a`: it is empty: fill it, or set `gaps` to \"hold\""
    );
    let first = refusal("a,b\n,2\n", &config);
    assert_eq!(
        first,
        ", line 2, column `a`: it is empty, with no value before it: fill it"
    );
}

fn refusal(text: &str, config: &TableConfig) -> String {
    let error = table(text, config).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
        .split_once("a.csv`")
        .expect("it names the file")
        .1
        .to_owned()
}

#[test]
fn what_is_no_table_of_numbers_is_refused_in_a_line() {
    let cases = [
        (
            "a,b\n1,2\n\n3,x\n",
            ", line 4, column `b`: \"x\" is no finite number: write one, or choose other `columns`",
        ),
        (
            "a,b\r\n1,2\r\n\r\n3,NaN\r\n",
            ", line 4, column `b`: \"NaN\" is no finite number: write one, or choose other `columns`",
        ),
        (
            "a\n1e99\n",
            ", line 2, column `a`: \"1e99\" is no finite number: write one, or choose other `columns`",
        ),
        (
            "a\n\"1,5\"\n",
            ", line 2, column `a`: \"1,5\" is no finite number: write a decimal point, not a comma",
        ),
        (
            "a,b\n1,2\n3\n",
            ", line 3: it has 1 cells where the first row has 2: complete it, or set another `delimiter`",
        ),
        (
            "a;b\n1,5;2,5\n",
            ", line 2: it has 3 cells where the first row has 1: complete it, or set another `delimiter`",
        ),
        ("a,b\n", ": it has no row below its header: leave it out"),
        ("\n", ": it has no row below its header: leave it out"),
        (
            "a\nx\n",
            ": none of its columns begins with a number: set its `delimiter`, or leave it out",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(text, &TableConfig::default()), message);
    }
    let config = TableConfig {
        columns: vec!["c".into()],
        ..Default::default()
    };
    let missing = ": it has no column `c`: choose of `a`, `b`";
    assert_eq!(refusal("a,b\n1,2\n", &config), missing);
    let config = TableConfig {
        delimiter: '→',
        ..Default::default()
    };
    let message = ": '→' cannot stand between cells: set another `delimiter`";
    assert_eq!(refusal("a,b\n1,2\n", &config), message);
}

#[test]
fn long_tables_come_in_blocks_of_whole_rows() {
    let rows: String = (0..100_000)
        .map(|row| format!("{row},{},0\n", row % 7))
        .collect();
    let (_, values) = table(&format!("a,b,c\n{rows}"), &TableConfig::default()).unwrap();
    assert_eq!(values.len(), 300_000);
    assert_eq!(values[299_997..], [99_999.0, (99_999 % 7) as f32, 0.0]);
}
