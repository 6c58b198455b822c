//! The settings of an optimiser.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serpens_ops::optimizer::{AdamW, Lion, Rule, Sgd};

use crate::config::{DECAY, Limits, NOT_NEGATIVE, POSITIVE};

/// Settings of an [`crate::Optimizer`].
///
/// In files they are one table. Its `kind` is `adamw`, `sgd` or `lion`, the first where it is not said; numbers that
/// are not said are those of [`OptimizerConfig::ADAMW`], [`OptimizerConfig::SGD`] or [`OptimizerConfig::LION`]; numbers
/// of another kind are refused.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The kind, with the numbers that it alone has.
    pub rule: RuleConfig,
    /// Peak learning rate.
    pub lr: f32,
    /// Decoupled weight decay, of the parameters that take it.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; 0 for no limit.
    pub clip: f32,
}

/// The rules that settings can name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RuleConfig {
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// The sign of a momentum.
    Lion(Lion),
}

impl OptimizerConfig {
    /// [`AdamW`] as language models are trained with it.
    pub const ADAMW: Self = Self::of(RuleConfig::AdamW(AdamW::USUAL), 1e-3, 0.1);
    /// [`Sgd`], with a rate for gradients of norm 1.
    pub const SGD: Self = Self::of(RuleConfig::Sgd(Sgd::USUAL), 0.1, 1e-4);
    /// [`Lion`], with a tenth of AdamW's rate and ten times its weight decay, as its authors advise.
    pub const LION: Self = Self::of(RuleConfig::Lion(Lion::USUAL), 1e-4, 1.0);
    const KINDS: [Self; 3] = [Self::ADAMW, Self::SGD, Self::LION];

    const fn of(rule: RuleConfig, lr: f32, weight_decay: f32) -> Self {
        Self {
            rule,
            lr,
            weight_decay,
            clip: 1.0,
        }
    }

    /// The rule.
    pub fn rule(&self) -> Box<dyn Rule> {
        match self.rule {
            RuleConfig::AdamW(rule) => Box::new(rule),
            RuleConfig::Sgd(rule) => Box::new(rule),
            RuleConfig::Lion(rule) => Box::new(rule),
        }
    }

    /// Every number by its place in the settings of a training, and what it may be.
    pub(crate) fn numbers(&mut self) -> Vec<(&'static str, &mut f32, Limits)> {
        let own = match &mut self.rule {
            RuleConfig::AdamW(rule) => vec![
                ("optimizer.beta1", &mut rule.beta1, DECAY),
                ("optimizer.beta2", &mut rule.beta2, DECAY),
                // Without it a value that has had no gradient yet moves by 0/0.
                ("optimizer.eps", &mut rule.eps, POSITIVE),
            ],
            RuleConfig::Sgd(rule) => vec![("optimizer.momentum", &mut rule.momentum, DECAY)],
            RuleConfig::Lion(rule) => vec![
                ("optimizer.beta1", &mut rule.beta1, DECAY),
                ("optimizer.beta2", &mut rule.beta2, DECAY),
            ],
        };
        let (decay, clip) = (&mut self.weight_decay, &mut self.clip);
        let mut numbers = vec![("optimizer.lr", &mut self.lr, POSITIVE)];
        numbers.extend(own);
        numbers.push(("optimizer.weight_decay", decay, NOT_NEGATIVE));
        numbers.push(("optimizer.clip", clip, NOT_NEGATIVE));
        numbers
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::ADAMW
    }
}

/// What a number is called in its table.
fn key(place: &'static str) -> &'static str {
    place.trim_start_matches("optimizer.")
}

impl Serialize for OptimizerConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (mut config, mut table) = (*self, to.serialize_map(None)?);
        table.serialize_entry("kind", self.rule().name())?;
        for (place, number, _) in config.numbers() {
            table.serialize_entry(key(place), number)?;
        }
        table.end()
    }
}

impl<'de> Deserialize<'de> for OptimizerConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(expecting = "{ kind = \"lion\", lr = 1e-4 }")]
        struct Table {
            kind: Option<String>,
            #[serde(flatten)]
            numbers: BTreeMap<String, f32>,
        }
        let unknown = |what, name: &str, known: Vec<&str>| {
            let known = known.join("`, `");
            D::Error::custom(format!(
                "unknown {what} `{name}`, expected one of `{known}`"
            ))
        };
        let Table { kind, numbers } = Table::deserialize(from)?;
        let kind = kind.as_deref().unwrap_or("adamw");
        let kinds = Self::KINDS.map(|config| config.rule().name());
        let found = Self::KINDS
            .into_iter()
            .find(|config| config.rule().name() == kind);
        let mut config = found.ok_or_else(|| unknown("variant", kind, kinds.into()))?;
        let mut known = config.numbers();
        for (name, number) in numbers {
            let Some(place) = known.iter().position(|(place, ..)| key(place) == name) else {
                let mut keys = vec!["kind"];
                keys.extend(known.iter().map(|(place, ..)| key(place)));
                return Err(unknown("field", &name, keys));
            };
            *known[place].1 = number;
        }
        Ok(config)
    }
}
