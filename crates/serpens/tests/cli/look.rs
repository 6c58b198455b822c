//! `data look`.

use crate::support::TestFolder;

#[test]
fn files_are_recognised_counted_and_shown() {
    let place = TestFolder::new();
    place.write("x.fa", ">one\nACGTACGT\nAC\n>two\nACNNGT\n");
    let told = place.run(&["data", "look", "x.fa"]).succeeds().stdout;
    for words in [
        "DNA: 1 file, 3 records, 14 bases",
        "one",
        "ACGTACGTAC",
        "to 10",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    place.write("t.csv", "time,value\na,1\nb,2\nc,5\n");
    let told = place
        .run(&["data", "look", "t.csv", "--json"])
        .succeeds()
        .json_lines();
    assert_eq!(
        (&told[0]["kind"], &told[0]["positions"]),
        (&"tables".into(), &3.into())
    );
    assert_eq!(
        (&told[0]["channels"], &told[0]["length"]["longest"]),
        (&1.into(), &3.into())
    );
    place.write("a.txt", "words and words");
    let told = place.run(&["data", "look", "a.txt"]).succeeds().stdout;
    assert!(
        told.contains("text: 1 file") && told.contains("words and words"),
        "{told}"
    );
    place.run(&["data", "look", "none"]).fails(1, &["none"]);
}
