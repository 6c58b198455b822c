//! What tasks train: models that write, and models that answer.

use serpens_core::Tensor;
use serpens_nn::layers::Trace;
use serpens_nn::mixers::MixerSettings;
use serpens_nn::{
    Backbone, HeadConfig, LmState, MambaLm, MambaLmConfig, Predictor, PredictorConfig, Result,
};
use serpens_train::{NextToken, Objective, Predict};

/// An objective, and how its models come of a recipe's.
pub(crate) trait Kind: Objective<Model: Clone> + Default {
    /// What a task adds to a recipe's model.
    type Head: Clone;

    /// The model without values.
    fn plan(model: &MambaLmConfig, head: Self::Head) -> Result<Self::Model>;

    /// A language model's table and layers under this head.
    fn of(model: MambaLm, head: Self::Head, seed: u64) -> Result<Self::Model>;

    /// The model whose adapter is kept beside it, where other programs read such.
    fn adapted(model: &Self::Model) -> Option<&MambaLm>;

    /// What its layers are.
    fn config(model: &Self::Model) -> &MambaLmConfig;

    /// Its layers.
    fn backbone(model: &Self::Model) -> &Backbone;

    /// Values at each position between the layers and the loss.
    fn outputs(model: &Self::Model) -> usize;

    /// Whether it reads values in place of tokens.
    fn reads_values(head: &Self::Head) -> bool;

    /// What layers do with a sequence, or a chunk of one, on the processor.
    fn trace(
        model: &Self::Model,
        inputs: &Tensor,
        state: Option<&mut LmState>,
    ) -> Result<Vec<(usize, Trace)>>;
}

/// Whether sequences may be read in chunks, each from the state that the one before it left.
pub(crate) fn is_causal(config: &MambaLmConfig) -> Result<bool> {
    let mixers = config.layer_mixers()?;
    Ok(mixers.iter().all(MixerSettings::is_causal))
}

impl Kind for NextToken {
    type Head = ();

    fn plan(model: &MambaLmConfig, (): ()) -> Result<MambaLm> {
        model.plan()
    }

    fn of(model: MambaLm, (): (), _seed: u64) -> Result<MambaLm> {
        Ok(model)
    }

    fn adapted(model: &MambaLm) -> Option<&MambaLm> {
        model.config().lora.as_ref().map(|_| model)
    }

    fn config(model: &MambaLm) -> &MambaLmConfig {
        model.config()
    }

    fn backbone(model: &MambaLm) -> &Backbone {
        model.backbone()
    }

    fn reads_values((): &()) -> bool {
        false
    }

    fn outputs(model: &MambaLm) -> usize {
        model.config().vocab_size
    }

    fn trace(
        model: &MambaLm,
        inputs: &Tensor,
        state: Option<&mut LmState>,
    ) -> Result<Vec<(usize, Trace)>> {
        let rows = model.embeddings().forward(&inputs.clone().into())?;
        model.backbone().trace(rows, state)
    }
}

/// What stands around the layers of a model that answers.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// Values of each position that are read; 0 where tokens are.
    pub(crate) channels: usize,
    /// What is answered.
    pub(crate) head: HeadConfig,
}

impl Answers {
    /// The same where a model has room for more tokens than have complements: each of them is its own.
    fn for_tokens(mut self, count: usize) -> Self {
        let pairs = &mut self.head.complement;
        if !pairs.is_empty() {
            pairs.extend(pairs.len() as u32..count as u32);
        }
        self
    }
}

impl Kind for Predict {
    type Head = Answers;

    fn plan(model: &MambaLmConfig, head: Answers) -> Result<Predictor> {
        let Answers { channels, head } = head.for_tokens(model.vocab_size);
        let model = model.clone();
        PredictorConfig {
            model,
            channels,
            head,
        }
        .plan()
    }

    fn of(model: MambaLm, head: Answers, seed: u64) -> Result<Predictor> {
        let tokens = model.config().vocab_size;
        Predictor::of(model, head.for_tokens(tokens).head, seed)
    }

    fn adapted(_model: &Predictor) -> Option<&MambaLm> {
        None // the head would be missing
    }

    fn config(model: &Predictor) -> &MambaLmConfig {
        &model.config().model
    }

    fn backbone(model: &Predictor) -> &Backbone {
        model.backbone()
    }

    fn reads_values(head: &Answers) -> bool {
        head.channels > 0
    }

    fn outputs(model: &Predictor) -> usize {
        let head = &model.config().head;
        head.pooling.map_or(head.outputs, |_| 0)
    }

    fn trace(
        model: &Predictor,
        inputs: &Tensor,
        state: Option<&mut LmState>,
    ) -> Result<Vec<(usize, Trace)>> {
        model.trace(&inputs.clone().into(), state)
    }
}
