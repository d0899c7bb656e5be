//! Time of a plan by label: an op of every layer is one row, however many layers there are.

use crate::error::Result;
use crate::lab::clock::median;
use crate::lab::results::LabelRow;
use crate::runtime::Plan;

/// The label without its layer: the part after the first number in it, or all of it.
pub fn without_layer(label: &str) -> &str {
    let (mut rest, is_number) = (label, |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    while let Some((part, after)) = rest.split_once('.') {
        if is_number(part) {
            return after;
        }
        rest = after;
    }
    label
}

/// Median times on the device of `runs` runs of a plan, by label and kernel, largest first.
pub fn profile(stage: &str, plan: &Plan, runs: usize) -> Result<Vec<LabelRow>> {
    let timings = (0..runs).map(|_| plan.profile()).collect::<Result<Vec<_>, _>>()?;
    let mut rows: Vec<LabelRow> = Vec::new();
    for (i, timing) in timings.first().into_iter().flatten().enumerate() {
        let us = median(timings.iter().map(|run| run[i].microseconds));
        let label = without_layer(&timing.label);
        match rows.iter_mut().find(|row| row.label == label && row.kernel == timing.kernel) {
            Some(row) => (row.count, row.us) = (row.count + 1, row.us + us),
            None => rows.push(LabelRow {
                stage: stage.into(),
                label: label.into(),
                kernel: timing.kernel.into(),
                count: 1,
                us,
            }),
        }
    }
    rows.sort_by(|a, b| b.us.total_cmp(&a.us));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::without_layer;

    #[test]
    fn layers_share_a_label() {
        assert_eq!(without_layer("language_model.model.layers.31.self_attn.qkv"), "self_attn.qkv");
        assert_eq!(
            without_layer("language_model.decoder.block.0.layer.1.EncDecAttention.q"),
            "layer.1.EncDecAttention.q"
        );
        assert_eq!(without_layer("language_model.lm_head"), "language_model.lm_head");
        assert_eq!(without_layer("vision_model.post_layernorm2"), "vision_model.post_layernorm2");
    }
}
