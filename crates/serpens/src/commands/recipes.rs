//! `serpens recipes`.

use crate::Result;
use crate::cli::RecipesAction;
use crate::output::say;
use crate::recipe::{BUILT_IN, MODELS, shown};

pub(super) fn run(action: Option<RecipesAction>) -> Result<()> {
    match action {
        None | Some(RecipesAction::Show { name: None }) => {
            list(&BUILT_IN)?;
            say("\nModels that take the place of a recipe's, with --set model=NAME:")?;
            list(&MODELS)
        }
        Some(RecipesAction::Show { name: Some(name) }) => {
            let text = shown().find(|(known, _)| *known == name);
            say(text.map_or("", |(_, text)| text.trim_end()))
        }
    }
}

fn list(files: &[(&str, &str)]) -> Result<()> {
    files.iter().try_for_each(|(name, text)| {
        let about = text.lines().next().unwrap_or_default();
        say(&format!("{name:<24} {}", about.trim_start_matches("# ")))
    })
}
