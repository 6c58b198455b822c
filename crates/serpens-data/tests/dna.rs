//! DNA: records, stretches and regions of FASTA and FASTQ files as documents, and what is refused.

use std::fs;

use serpens_data::{
    Ambiguity, Batch, Content, Corpus, DnaConfig, Error, IGNORE, LowerCase, Result, Source, Split,
    Tokenizer,
};
use tempfile::TempDir;

fn dna() -> DnaConfig {
    DnaConfig::default()
}

/// A folder with these files, and its path.
fn folder(files: &[(&str, &[u8])]) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let path = folder.path().to_str().unwrap().to_owned();
    (folder, path)
}

fn open(pattern: &str, config: &DnaConfig, hold_out: &[&str]) -> Result<Corpus> {
    let (tokenizer, content) = (Tokenizer::dna(config)?, Content::Dna(config.clone()));
    let hold_out: Vec<String> = hold_out.iter().map(|&name| name.into()).collect();
    let watch = &mut |done, all| {
        assert!(done <= all);
        Ok(())
    };
    Corpus::open(pattern, &content, &tokenizer, &hold_out, watch)
}

/// The texts of all documents, the last of which has more than one token.
fn documents(corpus: &Corpus) -> Vec<String> {
    let whole = corpus.clone().with_validation_fraction(0.0).unwrap();
    let mut slices = whole.slices(Split::Train, 1, whole.tokens()).unwrap();
    let batch = slices.next().unwrap().unwrap();
    let mut texts = Vec::new();
    let last = *batch.targets.last().unwrap();
    let starts = batch.starts.unwrap().into_iter().chain([false]);
    for (id, starts) in batch.inputs.into_iter().chain([last]).zip(starts) {
        if starts {
            texts.push(String::new());
        }
        let text = corpus.tokenizer().token_text(id);
        texts.last_mut().unwrap().push_str(&text);
    }
    assert_eq!(texts.len(), corpus.documents());
    texts
}

fn read(content: &[u8], config: &DnaConfig) -> Vec<String> {
    let (_folder, path) = folder(&[("any", content)]);
    documents(&open(&path, config, &[]).unwrap())
}

const FASTA: &[u8] =
    b"\n>one first words\r\nACGu\r\nacgt\r\n\r\n>empty\n>two\n\n>three\nNNACG T\nRYacNN\nGG\nTT";

#[test]
fn records_are_documents_split_at_ambiguous_letters() {
    assert_eq!(read(FASTA, &dna()), ["ACGTACGT", "ACGT", "AC", "GGTT"]);
    let config = DnaConfig {
        ambiguity: Ambiguity::Unknown,
        ..dna()
    };
    assert_eq!(read(FASTA, &config), ["ACGTACGT", "NNACGTNNACNNGGTT"]);
    let config = DnaConfig {
        lower_case: LowerCase::Keep,
        ..config
    };
    assert_eq!(read(FASTA, &config), ["ACGtacgt", "NNACGTNNacNNGGTT"]);
    assert_eq!(read(b">a\nnnuUrACkGT\n", &config), ["nntTnACnGT"]);
}

#[test]
fn reads_of_fastq_are_documents_whatever_their_quality() {
    let text = b"@r1 x\r\nACGN\r\n+\r\n@@!I\r\n\n@r2\nGGTT\n+r2\n>+I~";
    assert_eq!(read(text, &dna()), ["ACG", "GGTT"]);
    assert_eq!(
        read(b"@e\n\n+\n\n@r\nACGT\n+\nIIII\n@\n\n+\n\n", &dna()),
        ["ACGT"]
    );
}

/// The line that refuses this content, which names its file.
fn refused(content: &[u8], config: &DnaConfig) -> String {
    let (_folder, path) = folder(&[("any.fa", content)]);
    let error = open(&path, config, &[]).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn what_is_no_dna_is_refused_with_its_record_and_line() {
    let cases: [(&[u8], &[&str]); 12] = [
        (
            b">a\nACGT\n>p x\nACG\nMKL\n",
            &["any.fa`, record `p`, line 5: `L`", "protein"],
        ),
        (b">p\nACG*\n", &["record `p`, line 2: `*`", "protein"]),
        (b">g\nAC-G\n", &["record `g`, line 2: `-` is a gap"]),
        (b">g\nAC1G\n", &["line 2: `1` is no nucleotide"]),
        (b">g\nAC\xffG\n", &["line 2: `\\xff` is no nucleotide"]),
        (b">g\nAC>G\n", &["line 2: `>` is no nucleotide"]),
        (
            b"\n\nACGT\n>a\nACGT\n",
            &["any.fa`, line 3: it begins with `A`"],
        ),
        (
            b"@r\nACGT\n+\nIII\n",
            &["record `r`, line 4: 4 letters have a quality of 3"],
        ),
        (
            b"@r\nACGT\n+\nIIII\n@s\nACGT\n+\n",
            &["record `s`, line 7", "ends within"],
        ),
        (b"@r\nACGT\n", &["record `r`, line 2", "ends within"]),
        (
            b"@r\nACGT\nACGT\n+\nIIIIIIII\n",
            &["record `r`, line 3", "no `+`"],
        ),
        (
            b"@r\nACGT\n+\nIIII\n>s\nACGT\n",
            &["record `r`, line 5", "no `@`"],
        ),
    ];
    for (content, parts) in cases {
        let line = refused(content, &dna());
        for part in parts {
            assert!(line.contains(part), "`{part}` is missing in: {line}");
        }
    }
    for nothing in [&b">a\n>b\n\n"[..], b">a\nNNNN\n", b"\n\n"] {
        assert!(refused(nothing, &dna()).contains("holds no text"));
    }
}

#[test]
fn names_and_headers_have_any_length() {
    let long = "x".repeat(100_000);
    let text = format!(">{long} {long}\nACGT\n>\nGG\n>b {long}\nTT");
    assert_eq!(read(text.as_bytes(), &dna()), ["ACGT", "GG", "TT"]);
    assert!(refused(format!(">{long}\nL").as_bytes(), &dna()).len() < 2000);
}

#[test]
fn records_that_are_held_out_come_last_whole() {
    let (_folder, path) = folder(&[
        ("1.fa", b">a\nAAAA\n>b x\nCCNCC\n>c\nGG\n>b\nCT\n"),
        ("2.fa", b">d\nTT\n>e\nACG\n"),
    ]);
    let corpus = open(&path, &dna(), &["b", "d"]).unwrap();
    assert_eq!(
        documents(&corpus),
        ["AAAA", "GG", "ACG", "CC", "CC", "CT", "TT"]
    );
    assert_eq!(corpus.split_tokens(Split::Train), 9);
    assert_eq!(corpus.split_tokens(Split::Validation), 8);
    let error = open(&path, &dna(), &["b", "f"]).unwrap_err().to_string();
    assert!(
        error.contains("record `f`, but of `b`, `a`, `c` for example"),
        "{error}"
    );
    // Files are records of their own names where they have no others.
    let (_texts, path) = folder(&[
        ("a.txt", b"first"),
        ("b.txt", b"second"),
        ("c.txt", b"third"),
    ]);
    let bytes = Tokenizer::bytes();
    let open = |hold_out: &str, tokenizer| {
        let go_on = &mut |_, _| Ok(());
        Corpus::open(&path, &Content::Text, tokenizer, &[hold_out.into()], go_on)
    };
    let corpus = open("b.txt", &bytes).unwrap();
    assert_eq!(documents(&corpus), ["first", "third", "second"]);
    assert_eq!(corpus.split_tokens(Split::Validation), 6);
    assert!(matches!(open("d.txt", &bytes), Err(Error::Content { .. })));
}

/// What is read of records in these regions.
fn in_regions(fasta: &[u8], bed: &str, ambiguity: Ambiguity) -> Result<Vec<String>> {
    let (folder, path) = folder(&[("a.fa", fasta)]);
    let bed_path = folder.path().join(".regions.bed").display().to_string();
    fs::write(&bed_path, bed).unwrap();
    let regions = Some(bed_path);
    let config = DnaConfig {
        regions,
        ambiguity,
        ..dna()
    };
    open(&path, &config, &[]).map(|corpus| documents(&corpus))
}

#[test]
fn regions_are_read_in_order_and_overlapping_ones_as_one() {
    let fasta = b">a\nAACC\nGGTT\nACNA\n>b\nTTTT\n>c\nACGT\n";
    let bed = "track x\n# no\nc\t1\t4\tname\na\t9\t12\na\t1\t3\na\t2\t5\r\na\t5\t7\n\n";
    let read = in_regions(fasta, bed, Ambiguity::Unknown).unwrap();
    assert_eq!(read, ["ACCG", "GT", "CNA", "CGT"]);
    let read = in_regions(fasta, bed, Ambiguity::Split).unwrap();
    assert_eq!(read, ["ACCG", "GT", "C", "A", "CGT"]);
    let cases = [
        ("a\t0\t4\nd\t0\t1\n", "record `d`, but of `a`"),
        ("c\t0\t4\nc\t2\t5\n", "line 2: record `c` in"),
        ("a\t4\t4\n", "line 1: this region ends"),
        ("a 1\n", "line 1: this is no region"),
        ("# nothing\n", "it has no regions"),
    ];
    for (bed, part) in cases {
        let error = in_regions(fasta, bed, Ambiguity::Split)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && error.contains(".regions.bed"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn k_mers_and_what_is_left_over_are_tokens() {
    let config = DnaConfig {
        kmer: 3,
        ambiguity: Ambiguity::Unknown,
        ..dna()
    };
    let tokenizer = Tokenizer::dna(&config).unwrap();
    assert_eq!(tokenizer.vocab_size(), 64 + 5);
    let ids = tokenizer.encode(b"AAAacgNTTTGC").unwrap();
    let texts: Vec<String> = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
    assert_eq!(texts, ["AAA", "ACG", "N", "TTT", "G", "C"]);
    assert_eq!(ids, [0, 6, 68, 63, 66, 65]);
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let found = Tokenizer::find(folder.path()).unwrap().unwrap();
    assert_eq!(found, tokenizer);
    assert_eq!(
        found.encode(b"gatTaca").unwrap(),
        tokenizer.encode(b"GATTACA").unwrap()
    );
    let symbols = |kmer, lower_case, ambiguity| {
        let config = DnaConfig {
            kmer,
            lower_case,
            ambiguity,
            regions: None,
        };
        Tokenizer::dna(&config).map(|tokenizer| tokenizer.decode(&Vec::from_iter(0..10)))
    };
    let keep = symbols(1, LowerCase::Keep, Ambiguity::Unknown).unwrap();
    assert_eq!(keep, b"ACGTNacgtn");
    assert_eq!(
        symbols(1, LowerCase::Fold, Ambiguity::Split).unwrap(),
        b"ACGT"
    );
    for (k, case) in [
        (0, LowerCase::Fold),
        (9, LowerCase::Fold),
        (2, LowerCase::Keep),
    ] {
        let error = symbols(k, case, Ambiguity::Split).unwrap_err();
        assert!(error.to_string().contains("dna: kmer"), "{error}");
    }
}

#[test]
fn the_reverse_complement_of_a_token_is_what_the_other_strand_reads() {
    for (kmer, lower_case) in [
        (1, LowerCase::Keep),
        (1, LowerCase::Fold),
        (4, LowerCase::Fold),
    ] {
        let config = DnaConfig {
            kmer,
            lower_case,
            ambiguity: Ambiguity::Unknown,
            regions: None,
        };
        let tokenizer = Tokenizer::dna(&config).unwrap();
        let complement = tokenizer.complement().unwrap();
        assert_eq!(complement.len(), tokenizer.vocab_size());
        for (id, &other) in (0..).zip(&complement) {
            assert_eq!(complement[other as usize], id);
            let text: String = tokenizer.token_text(id).chars().rev().collect();
            let pairs = |from: char| "TGCANtgcan".chars().nth("ACGTNacgtn".find(from).unwrap());
            let text: String = text.chars().map(|from| pairs(from).unwrap()).collect();
            assert_eq!(tokenizer.token_text(other), text);
        }
    }
    assert_eq!(Tokenizer::bytes().complement(), None);
}

#[test]
fn windows_of_both_strands_are_those_of_one_or_their_reverse_complements() {
    let record = |i: usize| {
        let letter = |j: usize| char::from(b"ACGT"[(i * 7 + j * j * 3 + j / 3) % 4]);
        format!(
            ">{i}\n{}\n",
            (0..5 + i * 3 % 11).map(letter).collect::<String>()
        )
    };
    let text: String = (0..40).map(record).collect();
    let (_folder, path) = folder(&[("a.fa", text.as_bytes())]);
    let corpus = open(&path, &dna(), &[]).unwrap();
    let plain = corpus.windows(3, 17, 5).unwrap();
    let both = || {
        corpus
            .windows(3, 17, 5)
            .unwrap()
            .reverse_complement()
            .unwrap()
    };
    let ids =
        |source: &dyn Source, index| -> Batch { source.batch(index).unwrap().tokens().unwrap() };
    assert_ne!(plain.description(), both().description());
    let mut turned = 0;
    for index in (0..100).rev() {
        let (here, there) = (ids(&plain, index), ids(&both(), index));
        let [starts, starts_there] = [&here, &there].map(|batch| batch.starts.as_ref().unwrap());
        for row in 0..3 {
            let at = row * 17..(row + 1) * 17;
            if here.inputs[at.clone()] == there.inputs[at.clone()]
                && here.targets[at.clone()] == there.targets[at.clone()]
            {
                continue;
            }
            turned += 1;
            for i in 1..17 {
                let (token, other) = (here.inputs[row * 17 + i], there.inputs[at.end - i]);
                assert_eq!(token, 3 - other);
                // A document starts between the same two letters.
                if i > 1 {
                    assert_eq!(starts[row * 17 + i], starts_there[at.end - i + 1]);
                }
                let target = there.targets[at.end - i - 1];
                match starts_there[at.end - i] {
                    true => assert_eq!(target, IGNORE),
                    false => assert_eq!(target, other),
                }
            }
        }
    }
    assert!((100..200).contains(&turned), "{turned} of 300");
    let bytes = Tokenizer::bytes();
    let go_on = &mut |_, _| Ok::<_, Error>(());
    let bytes = Corpus::open(&path, &Content::Text, &bytes, &[], go_on).unwrap();
    let error = bytes
        .windows(1, 4, 0)
        .unwrap()
        .reverse_complement()
        .unwrap_err();
    assert!(error.to_string().contains("no nucleotides"), "{error}");
}
