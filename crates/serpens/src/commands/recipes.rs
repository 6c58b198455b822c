//! `serpens recipes`.

use crate::Result;
use crate::cli::RecipesAction;
use crate::output::say;
use crate::recipe;

pub(super) fn run(action: Option<RecipesAction>) -> Result<()> {
    match action {
        None | Some(RecipesAction::Show { name: None }) => {
            for (name, text) in recipe::BUILT_IN {
                let about = text.lines().next().unwrap_or_default();
                say(&format!("{name:<24} {}", about.trim_start_matches("# ")))?;
            }
        }
        Some(RecipesAction::Show { name: Some(name) }) => say(recipe::built_in(&name)?.trim_end())?,
    }
    Ok(())
}
