use serpens_nn::Module;
use serpens_nn::mixers::MixerConfig;

use super::*;

#[test]
fn every_built_in_recipe_reads_and_survives_being_written() {
    for (name, _) in BUILT_IN {
        let recipe = Recipe::read(name, built_in(name).unwrap(), &[]).unwrap();
        let text = recipe.to_toml();
        let again = Recipe::read("x", &text, &[]).unwrap();
        assert_eq!(recipe, again, "{name}");
        recipe.train.check().unwrap();
    }
}

#[test]
fn layers_may_alternate_between_mixers() {
    let text = built_in("induction-heads").unwrap();
    let h3 = "[[model.block]]\nkind = \"h3\"\nd_conv = 3\n\n[[model.block]]";
    let text = text.replace("[model.block]", h3);
    let recipe = Recipe::read("x", &text, &[]).unwrap();
    let kinds = recipe.model.mixers.iter().map(|mixer| format!("{mixer:?}"));
    let kinds: Vec<String> = kinds.collect();
    assert!(kinds[0].starts_with("H3") && kinds[1].starts_with("Mamba"));
    let twin = recipe.twin_model().unwrap();
    assert_eq!((recipe.model.ssm_name(), twin.ssm_name()), ("S6", "S4D"));
    let written = recipe.to_toml();
    let again = Recipe::read("x", &written, &[]).unwrap();
    assert_eq!(recipe, again);
    let wrong = text.replace("d_conv", "d_cov");
    let error = Recipe::read("x", &wrong, &[]).unwrap_err();
    assert!(error.to_string().contains("\"d_conv\""), "{error}");
}

#[test]
fn every_built_in_model_fits_every_recipe_and_is_about_as_large_as_that_of_the_text_recipe() {
    let read = |recipe: &str, changes: &[String]| {
        Recipe::read(recipe, built_in(recipe).unwrap(), changes).unwrap()
    };
    let count = |recipe: &Recipe| {
        let plan = recipe.model.plan().unwrap();
        plan.count(|param| param.trained).unwrap() as f64
    };
    let usual = count(&read("text", &[]));
    for (name, text) in MODELS {
        assert!(text.starts_with("# "), "{name} says what it is");
        let change = [format!("model={name}")];
        for (recipe, _) in BUILT_IN {
            let own = read(recipe, &[]).model;
            if own.d_model > 0 {
                let model = read(recipe, &change).model;
                assert_eq!(
                    (model.d_model, model.vocab_size),
                    (own.d_model, own.vocab_size)
                );
                assert!(model.layers.is_some(), "{name} says what its layers are");
                model.plan().unwrap();
            }
        }
        let share = count(&read("text", &change)) / usual;
        assert!((0.9..1.1).contains(&share), "{name}: {share}");
        let again = Recipe::read("x", &read("text", &change).to_toml(), &[]).unwrap();
        assert_eq!(again, read("text", &change));
    }
}

#[test]
fn changes_after_a_built_in_model_are_changes_of_it() {
    let recipe = with(&["model.n_layer=1", "model=mamba-mlp", "model.layers=(MF)2M2"]).unwrap();
    assert_eq!(recipe.model.n_layer, 4, "the model's own");
    let refused = recipe.model.plan().unwrap_err().to_string();
    assert!(refused.contains("goes from 1 to 4"), "{refused}");
    let recipe = with(&["model=gated-rnn", "model.layers=none"]).unwrap();
    let kinds = recipe.model.layer_mixers().unwrap();
    assert_eq!(
        kinds.iter().map(|one| one.kind().0).collect::<String>(),
        "GF"
    );
    for (change, told) in [
        (
            "model=mamba-mpl",
            "unknown model \"mamba-mpl\"; did you mean \"mamba-mlp\"?",
        ),
        ("model=elephant", "known are mamba-mlp, "),
        ("model=none", "unknown model \"none\""),
    ] {
        let error = with(&[change]).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

fn with(changes: &[&str]) -> Result<Recipe> {
    let changes: Vec<String> = changes.iter().map(|s| (*s).to_owned()).collect();
    Recipe::read("built in", built_in("induction-heads")?, &changes)
}

#[test]
fn any_field_can_be_set() {
    let recipe = with(&[
        "train.steps=7",
        "train.optimizer.lr=0.5",
        "task.lengths=[8, 16]",
        "model.block.inner.a_init=random",
        "seed = 3",
    ])
    .unwrap();
    assert_eq!((recipe.train.steps, recipe.seed), (7, 3));
    let TaskConfig::InductionHeads(task) = &recipe.task else {
        panic!("another task");
    };
    assert_eq!((task.lengths.as_slice(), task.seed), (&[8, 16][..], 3));
}

#[test]
fn a_field_of_one_kind_of_layers_is_reached_by_its_name() {
    let model = "model=mamba-attention";
    let recipe = with(&[model, "model.block.attention.window=64"]).unwrap();
    let windows = recipe.model.mixers.iter().filter_map(|mixer| match mixer {
        MixerConfig::Attention(attention) => Some(attention.window),
        _ => None,
    });
    assert_eq!(windows.collect::<Vec<_>>(), [Some(64)]);
    // A kind that letters bring in, whatever the recipe has.
    let letters = ["model.layers=MA", "model.block.attention.heads=2"];
    let recipe = with(&letters).unwrap();
    let heads = recipe.model.mixers.iter().filter_map(|mixer| match mixer {
        MixerConfig::Attention(attention) => Some(attention.heads),
        _ => None,
    });
    assert_eq!(heads.collect::<Vec<_>>(), [Some(2)]);
    let other = with(&["model=gpt", "model=transformer"]).unwrap();
    assert_eq!(other.model.positions, 0, "nothing of the first is left");
    for (change, words) in [
        (
            "model.block.nothing.expand=2",
            &["nothing", "attention"][..],
        ),
        ("model.block.attention.widow=64", &["widow", "window"]),
        ("model.block.window=64", &["KIND"]),
    ] {
        let text = with(&[model, change]).unwrap_err().to_string();
        let told = words.iter().all(|word| text.contains(word));
        assert!(told && !text.contains('\n'), "{text}");
    }
}

#[test]
fn what_is_optional_is_left_out_by_none() {
    let recipe = with(&["twin=none", "train.best={}", "train.best=none"]).unwrap();
    assert!(recipe.twin.is_none() && recipe.train.best.is_none());
    assert!(with(&["model=none"]).is_err());
}

#[test]
fn values_are_asked_for_in_words() {
    for (change, words) in [
        ("train.steps=many", "expected a whole number from 0"),
        (
            "task.lengths=8",
            "expected a list, such as [64] or [\"text\"]",
        ),
        ("train.optimizer.lr=[]", "expected a number"),
        ("train=5", "expected a table of its keys"),
    ] {
        let error = with(&[change]).unwrap_err().to_string();
        assert!(error.ends_with(words), "{error}");
    }
}

#[test]
fn a_misspelt_key_is_answered_with_the_nearest() {
    for (change, key, nearest) in [
        ("train.stpes=7", "stpes", Some("steps")),
        ("trian.steps=7", "trian", Some("train")),
        ("task.lenghts=[8]", "lenghts", Some("lengths")),
        ("model.d_modle=8", "d_modle", Some("d_model")),
        ("model.block.inner.d_sate=8", "d_sate", Some("d_state")),
        ("train.optimizer.learning_rate=1", "learning_rate", None),
        ("train.lr=1", "lr", Some("train.optimizer.lr")),
        ("d_state=8", "d_state", Some("model.block.inner.d_state")),
    ] {
        match with(&[change]) {
            Err(Error::Refused {
                source:
                    Refusal::Unknown {
                        key: k, nearest: n, ..
                    },
                ..
            }) => {
                assert_eq!((k, n.as_deref()), (key.into(), nearest), "{change}");
            }
            other => panic!("{change}: {other:?}"),
        }
    }
}

#[test]
fn a_wrong_choice_is_answered_with_all_there_are() {
    for (change, known) in [
        ("train.schedule=cos", "constant, cosine"),
        ("train.schedule=3", "constant, cosine"),
        (
            "task.kind=poetry",
            "induction-heads, selective-copying, text",
        ),
        ("model.block.kind=mambo", "mamba, h3, plain, mlp, min-gru"),
        ("model.block.inner.kind=s5", "s6, s4d"),
        ("twin.kind=s5", "s6, s4d"),
        ("model.block.inner.a_init=zz", "real, half, random, complex"),
        ("model.block.ssm.d_state=8", "inner"),
        ("train.optimizer.learning_rate=1", "kind, lr, beta1"),
        ("train.optimizer.kind=adam", "adamw, sgd, lion"),
        ("train.optimizer.kind=3", "adamw, sgd, lion"),
        (
            "train.optimizer={ kind = \"sgd\", beta1 = 0.9 }",
            "momentum",
        ),
    ] {
        let error = with(&[change]).unwrap_err().to_string();
        let (_, told) = error.split_once("known are ").expect(&error);
        assert!(told.contains(known), "{change}: {told}");
    }
}

#[test]
fn a_key_of_another_task_is_not_answered_with_itself() {
    let error = with(&["task.length=8"]).unwrap_err().to_string();
    assert!(error.contains("did you mean \"lengths\"?"), "{error}");
}

#[test]
fn another_kind_is_given_with_all_of_its_table() {
    let error = with(&["task.kind=text"]).unwrap_err().to_string();
    assert!(error.contains("'task={ kind = …"), "{error}");
    let recipe = with(&["task={ kind = \"text\", length = 8 }"]).unwrap();
    assert_eq!(recipe.task.name(), "text");
}

#[test]
fn a_table_is_asked_for_by_its_key_and_its_form() {
    for (change, form) in [
        ("train.optimizer=sgd", "expected a table, such as { kind = "),
        ("train.stop=3", "{ accuracy = 0.99, steps = 100 }"),
        ("train.best=true", "such as { more = true }"),
        ("train=3", "a table of its keys"),
        ("model=3", "a table of its keys"),
        ("evaluate=3", "a table of its keys"),
        ("task=text", "a table with a kind"),
        ("twin=s4d", "a table with a kind"),
        ("model.block=h3", "a table, or a list of them"),
        (
            "train.optimizer.kind=lion",
            "'train.optimizer={ kind = …, … }'",
        ),
    ] {
        let error = with(&[change]).unwrap_err().to_string();
        let (key, _) = change.split_once('=').unwrap();
        assert!(error.contains(form) && error.contains(key), "{error}");
    }
    let lion = with(&["train.optimizer={ kind = \"lion\", clip = 2 }"]).unwrap();
    let lion = lion.train.optimizer;
    assert_eq!(
        (lion.lr, lion.clip, lion.rule().name()),
        (1e-4, 2.0, "lion")
    );
}

#[test]
fn a_value_is_one_value_and_whole() {
    for change in [
        "train.steps=5\ntrain.warmup=3",
        "train.steps=5 6",
        "=3",
        " = 3",
        &format!("a{}=3", ".a".repeat(100_000)),
    ] {
        let error = with(&[change]).unwrap_err().to_string();
        assert!(error.contains("expected"), "{change}: {error}");
    }
    let recipe = with(&["task.lengths=[8,\n 16]"]).unwrap();
    let TaskConfig::InductionHeads(task) = &recipe.task else {
        panic!("another task");
    };
    assert_eq!(task.lengths, [8, 16]);
}

#[test]
fn a_name_of_several_lines_is_told_whole() {
    let error = Recipe::read("x", "\"se\\ned\" = 1", &[]).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("did you mean \"seed\"?"), "{told}");
}

#[test]
fn errors_of_a_file_have_a_line() {
    let text = built_in("text").unwrap().replace("steps =", "stepz =");
    let line = 1 + text.lines().position(|l| l.starts_with("stepz")).unwrap();
    let error = Recipe::read("my.toml", &text, &[]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("my.toml, line {line}")), "{text}");
    assert!(text.contains("\"steps\""), "{text}");
    assert_eq!(error.exit_code(), 2);
    let text = Recipe::read("x", "seed = 0", &[]).unwrap_err().to_string();
    assert!(
        text.contains("`task`; recipes to begin with: serpens recipes show"),
        "{text}"
    );
}

#[test]
fn values_of_the_wrong_kind_and_broken_changes_are_one_line() {
    for change in [
        "train.steps=many",
        "train.steps",
        "train.steps.x=1",
        "task.kind=poetry",
    ] {
        let text = with(&[change]).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("--set"), "{text}");
    }
}

#[test]
fn an_unknown_recipe_is_answered_with_the_nearest() {
    let text = built_in("induction-hats").unwrap_err().to_string();
    assert!(text.contains("induction-heads"), "{text}");
}
