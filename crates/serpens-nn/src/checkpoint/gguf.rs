//! GGUF files of the architecture `mamba`: Mamba and, with norms on Δ, B and C, FalconMamba.

use serpens_formats::gguf::Metadata;
use serpens_formats::{Encoding, Planned, TensorFile};
use serpens_ops::quantized_linear::Blocks;

use super::hf::HfConfig;
use super::layout::{Form, Layout, Place};
use crate::ssm::DtRank;
use crate::{Error, MambaLmConfig, Result};

pub(super) static LAYOUT: Layout = Layout {
    names: &[
        ("backbone.embeddings.", "token_embd."),
        ("backbone.norm_f.", "output_norm."),
        ("lm_head.", "output."),
        ("backbone.layers.", "blk."),
        (".norm.", ".attn_norm."),
        (".mixer.in_proj.", ".ssm_in."),
        (".mixer.conv1d.", ".ssm_conv1d."),
        (".mixer.x_proj.", ".ssm_x."),
        (".mixer.dt_proj.", ".ssm_dt."),
        (".mixer.A_log", ".ssm_a"),
        (".mixer.D", ".ssm_d"),
        (".mixer.out_proj.", ".ssm_out."),
    ],
    forms: &[(".A_log", Form::A), (".conv1d.weight", Form::Taps)],
};

const ARCHITECTURE: &str = "general.architecture";
const MAMBA: &str = "mamba";
const INNER: &str = "mamba.ssm.inner_size";
pub(super) const EMBEDDINGS: &str = "token_embd.weight";
pub(super) const HEAD: &str = "output.weight";
const RANK: &str = "mamba.ssm.time_step_rank";
const VOCAB_SIZE: &str = "mamba.vocab_size";
const NORM_EPS: &str = "mamba.attention.layer_norm_rms_epsilon";
const TOKENIZER: &str = "tokenizer.ggml.model";
const NORMS: &str = "mamba.ssm.dt_b_c_rms";

/// What files and settings say alike.
fn sizes(hf: &mut HfConfig) -> [(&'static str, &mut usize); 4] {
    [
        ("mamba.embedding_length", &mut hf.hidden_size),
        ("mamba.block_count", &mut hf.num_hidden_layers),
        ("mamba.ssm.conv_kernel", &mut hf.conv_kernel),
        ("mamba.ssm.state_size", &mut hf.state_size),
    ]
}

/// # Errors
/// [`Error::OtherModel`] for what is not computed here; metadata that are missing or of other types.
pub(super) fn read(metadata: &Metadata, file: &TensorFile) -> Result<MambaLmConfig> {
    let refuse = |field, found| Err(Error::other_model(file.path(), field, found));
    let architecture = metadata.get::<String>(ARCHITECTURE)?;
    if architecture != MAMBA {
        return refuse(ARCHITECTURE, architecture);
    }
    let size = |key| Ok::<_, Error>(metadata.get::<u32>(key)? as usize);
    let mut hf = HfConfig::default();
    for (key, field) in sizes(&mut hf) {
        *field = size(key)?;
    }
    let (width, inner) = (hf.hidden_size, size(INNER)?);
    if width == 0 || !inner.is_multiple_of(width) {
        return refuse(INNER, format!("{inner}, no multiple of the width {width},"));
    }
    let shape = |name| file.tensors().find(|(found, _)| *found == name);
    hf.expand = inner / width;
    hf.time_step_rank = DtRank::Fixed(size(RANK)?);
    hf.vocab_size = match (metadata.find::<u32>(VOCAB_SIZE)?, shape(EMBEDDINGS)) {
        (Some(stated), _) => stated as usize,
        (None, Some((_, shape))) => shape.rows(),
        (None, None) => 1, // the table will be missed
    };
    hf.tie_word_embeddings = shape(HEAD).is_none();
    hf.layer_norm_epsilon = metadata.get(NORM_EPS)?;
    let norms = metadata.find(NORMS)?.unwrap_or(false);
    hf.mixer_rms_eps = norms.then_some(hf.layer_norm_epsilon);
    Ok(hf.into())
}

/// Adds what the format says of the model to what else is to be in the file, and gives what it cannot say.
///
/// # Errors
/// [`Error::Inexpressible`].
pub(super) fn describe(
    mut hf: HfConfig,
    planned: &[Planned],
    metadata: &mut Metadata,
) -> Result<Vec<String>> {
    if hf.use_bias || !hf.use_conv_bias || hf.expand != 2 {
        let what = "projections with biases, convolutions without, or an expand other than 2";
        return Err(Error::Inexpressible(what));
    }
    let rank = match hf.time_step_rank {
        DtRank::Auto => hf.hidden_size.div_ceil(16),
        DtRank::Fixed(rank) => rank,
    };
    let most = planned.iter().max_by_key(|planned| planned.shape.count());
    let file_type = match most.map_or(Encoding::F32, |planned| planned.encoding) {
        Encoding::F16 => 1,
        Encoding::Blocks(Blocks::Q4_0) => 2,
        Encoding::Blocks(Blocks::Q8_0) => 7,
        Encoding::Blocks(Blocks::Q4_K) => 14,
        Encoding::Blocks(Blocks::Q6_K) => 18,
        Encoding::BF16 => 32,
        _ => 0,
    };
    for (key, number) in [
        ("general.quantization_version", 2),
        ("general.file_type", file_type),
        ("mamba.context_length", 1 << 20),
        ("mamba.feed_forward_length", 0),
        ("mamba.attention.head_count", 0),
        (VOCAB_SIZE, hf.vocab_size),
        (INNER, hf.hidden_size * hf.expand),
        (RANK, rank),
    ] {
        metadata.set(key, number as u32);
    }
    for (key, size) in sizes(&mut hf) {
        metadata.set(key, *size as u32);
    }
    let eps = hf.layer_norm_epsilon;
    if metadata.find::<String>(TOKENIZER)?.is_none() {
        metadata.set(TOKENIZER, "none".to_owned());
    }
    metadata.set(ARCHITECTURE, MAMBA.to_owned());
    metadata.set(NORM_EPS, eps);
    metadata.set(NORMS, hf.mixer_rms_eps.is_some());
    let other = hf.mixer_rms_eps.filter(|other| *other != eps);
    let said =
        |other| format!("all norms have one eps there: {eps} on Δ, B and C too, not {other}");
    Ok(other.map(said).into_iter().collect())
}

/// Whether a tensor is stored as is asked, as far as its rows are whole blocks: matrices are. All else is in f32.
pub(super) fn is_asked(place: &Place) -> bool {
    place.form == Form::Same && place.shape.len() == 2
}
