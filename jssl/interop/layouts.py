"""The names of weights in timm, torchvision and Hugging Face transformers.

A layout is a table of lines (our name, their name, kind). Kinds: `jssl.interop.kinds.KINDS`. "*"
is the number of a layer. "a|b" are several tensors in one: theirs of "query|key|value" are joined
along the first axis to our one, ours of "gate|fc1" to their one. A line counts if the network has
our tensor. The first such line counts.

The names of transformers are those of version 4, which version 5 reads and writes too.
"""

from typing import NamedTuple


class Layout(NamedTuple):
    """The names of a model's tensors in another library.

    Attributes:
      table: the lines of the encoder.
      prefix: the prefix of all names in a model with a head, or under DataParallel.
      left: a regular expression of the names that are ignored (heads, masks, position ids).
      renamed: pairs of an old part of a name and its replacement.
      numbers: our number of a layer -> theirs: "0" for transformers, "1_0" for a ResNet.
      heads: lines of other parts of a method's parameters, such as MAE's decoder.
    """

    table: str
    prefix: str = ""
    left: str = r"(?!)"
    renamed: tuple[tuple[str, str], ...] = ()
    numbers: str = "same"
    heads: str = ""


GELU = "blocks/*/mlp/fc1"
SWIGLU = "blocks/*/mlp/gate|fc1"  # two of our kernels in one of theirs
TIMM_BLOCKS = """
    norm               norm               norm
    blocks/*/norm1     blocks.*.norm1     norm
    blocks/*/attn/proj blocks.*.attn.proj dense
    blocks/*/norm2     blocks.*.norm2     norm
    blocks/*/mlp/fc2   blocks.*.mlp.fc2   dense
    patch_embed        patch_embed.proj   patch
    cls_token          cls_token          array
    reg_token          reg_token          array
    blocks/*/attn/qkv  blocks.*.attn.qkv  dense
"""
TIMM_VIT = (
    TIMM_BLOCKS
    + """
    pos_embed          pos_embed          array
    blocks/*/attn_scale blocks.*.ls1.gamma array
    blocks/*/mlp_scale blocks.*.ls2.gamma array
"""
)
TIMM_FC1 = " blocks.*.mlp.fc1 dense\n"
# timm's eva.py has the ViTs with rotary positions.
TIMM_EVA = (
    TIMM_BLOCKS
    + """
    blocks/*/attn/q_bias blocks.*.attn.q_bias array
    blocks/*/attn/v_bias blocks.*.attn.v_bias array
    blocks/*/attn_scale blocks.*.gamma_1  array
    blocks/*/mlp_scale blocks.*.gamma_2   array
"""
)
EVA_SWIGLU = """
    blocks/*/mlp/gate  blocks.*.mlp.fc1_g dense
    blocks/*/mlp/fc1   blocks.*.mlp.fc1_x dense
"""
HF_VIT_EMBEDDINGS = """
    cls_token              embeddings.cls_token                            array
    pos_embed              embeddings.position_embeddings                  array
    patch_embed            embeddings.patch_embeddings.projection          patch
    norm                   layernorm                                       norm
"""
HF_VIT = (
    HF_VIT_EMBEDDINGS
    + """
    blocks/*/norm1         encoder.layer.*.layernorm_before                norm
    blocks/*/attn/qkv      encoder.layer.*.attention.attention.query|key|value  dense
    blocks/*/attn/proj     encoder.layer.*.attention.output.dense          dense
    blocks/*/norm2         encoder.layer.*.layernorm_after                 norm
    blocks/*/mlp/fc1       encoder.layer.*.intermediate.dense              dense
    blocks/*/mlp/fc2       encoder.layer.*.output.dense                    dense
"""
)
HF_BEIT = (
    HF_VIT
    + """
    blocks/*/attn/q_bias   encoder.layer.*.attention.attention.query.bias  array
    blocks/*/attn/v_bias   encoder.layer.*.attention.attention.value.bias  array
    blocks/*/attn_scale    encoder.layer.*.lambda_1                        array
    blocks/*/mlp_scale     encoder.layer.*.lambda_2                        array
"""
)
# MAE's decoder; its kernels, and the head that predicts pixels.
HF_MAE_DECODER = """
    decoder/embed              decoder.decoder_embed                           dense
    decoder/mask_token         decoder.mask_token                              array
    decoder/norm               decoder.decoder_norm                            norm
    decoder/pred               decoder.decoder_pred                            dense
    decoder/blocks/*/norm1     decoder.decoder_layers.*.layernorm_before       norm
    decoder/blocks/*/attn/qkv  decoder.decoder_layers.*.attention.attention.query|key|value  dense
    decoder/blocks/*/attn/proj decoder.decoder_layers.*.attention.output.dense dense
    decoder/blocks/*/norm2     decoder.decoder_layers.*.layernorm_after        norm
    decoder/blocks/*/mlp/fc1   decoder.decoder_layers.*.intermediate.dense     dense
    decoder/blocks/*/mlp/fc2   decoder.decoder_layers.*.output.dense           dense
"""
HF_DINOV2 = (
    HF_VIT_EMBEDDINGS
    + """
    reg_token              embeddings.register_tokens                      array
    blocks/*/norm1         encoder.layer.*.norm1                           norm
    blocks/*/attn/qkv      encoder.layer.*.attention.attention.query|key|value  dense
    blocks/*/attn/proj     encoder.layer.*.attention.output.dense          dense
    blocks/*/attn_scale    encoder.layer.*.layer_scale1.lambda1            array
    blocks/*/norm2         encoder.layer.*.norm2                           norm
    blocks/*/mlp_scale     encoder.layer.*.layer_scale2.lambda1            array
"""
)
DINOV2_GELU = """
    blocks/*/mlp/fc1       encoder.layer.*.mlp.fc1                         dense
    blocks/*/mlp/fc2       encoder.layer.*.mlp.fc2                         dense
"""
DINOV2_SWIGLU = """
    blocks/*/mlp/gate|fc1  encoder.layer.*.mlp.weights_in                  dense
    blocks/*/mlp/fc2       encoder.layer.*.mlp.weights_out                 dense
"""
HF_DINOV3 = """
    cls_token              embeddings.cls_token                            array
    reg_token              embeddings.register_tokens                      array
    patch_embed            embeddings.patch_embeddings                     patch
    norm                   norm                                            norm
    blocks/*/norm1         layer.*.norm1                                   norm
    blocks/*/attn/qkv      layer.*.attention.q_proj|k_proj|v_proj          dense
    blocks/*/attn/q_bias   layer.*.attention.q_proj.bias                   array
    blocks/*/attn/v_bias   layer.*.attention.v_proj.bias                   array
    blocks/*/attn/proj     layer.*.attention.o_proj                        dense
    blocks/*/attn_scale    layer.*.layer_scale1.lambda1                    array
    blocks/*/norm2         layer.*.norm2                                   norm
    blocks/*/mlp/gate      layer.*.mlp.gate_proj                           dense
    blocks/*/mlp/fc1       layer.*.mlp.up_proj                             dense
    blocks/*/mlp/fc2       layer.*.mlp.down_proj                           dense
    blocks/*/mlp_scale     layer.*.layer_scale2.lambda1                    array
"""

BERT = """
    tokens/embedding   embeddings.word_embeddings.weight                  array
    pos_embed          embeddings.position_embeddings.weight              {positions}
    type_embed         embeddings.token_type_embeddings.weight            {types}
    norm               embeddings.LayerNorm                               norm
    blocks/*/attn/qkv  encoder.layer.*.attention.self.query|key|value     dense
    blocks/*/attn/proj encoder.layer.*.attention.output.dense             dense
    blocks/*/norm1     encoder.layer.*.attention.output.LayerNorm         norm
    blocks/*/mlp/fc1   encoder.layer.*.intermediate.dense                 dense
    blocks/*/mlp/fc2   encoder.layer.*.output.dense                       dense
    blocks/*/norm2     encoder.layer.*.output.LayerNorm                   norm
"""
BERT_HEAD = """
    head/kernel        cls.predictions.transform.dense.weight             turned
    head/bias          cls.predictions.transform.dense.bias               array
    head/scale         cls.predictions.transform.LayerNorm.weight         array
    head/shift_bias    cls.predictions.transform.LayerNorm.bias           array
    token_bias         cls.predictions.bias                               array
"""
ROBERTA_HEAD = """
    head/kernel        lm_head.dense.weight                               turned
    head/bias          lm_head.dense.bias                                 array
    head/scale         lm_head.layer_norm.weight                          array
    head/shift_bias    lm_head.layer_norm.bias                            array
    token_bias         lm_head.bias                                       array
"""
GPT2 = """
    tokens/embedding   wte.weight        array
    pos_embed          wpe.weight        array
    blocks/*/norm1     h.*.ln_1          norm
    blocks/*/attn/qkv  h.*.attn.c_attn   conv1d
    blocks/*/attn/proj h.*.attn.c_proj   conv1d
    blocks/*/norm2     h.*.ln_2          norm
    blocks/*/mlp/fc1   h.*.mlp.c_fc      conv1d
    blocks/*/mlp/fc2   h.*.mlp.c_proj    conv1d
    norm               ln_f              norm
"""
MASK_ROW = "mask_token embeddings.mask_token row"
MASK_TOKEN = "mask_token embeddings.mask_token token"
RESNET = """
    conv1                conv1                conv
    bn1                  bn1                  bn
    layer*/conv1         layer*.conv1         conv
    layer*/bn1           layer*.bn1           bn
    layer*/conv2         layer*.conv2         conv
    layer*/bn2           layer*.bn2           bn
    layer*/conv3         layer*.conv3         conv
    layer*/bn3           layer*.bn3           bn
    layer*/downsample_0  layer*.downsample.0  conv
    layer*/downsample_1  layer*.downsample.1  bn
"""
HF_RESNET = """
    conv1                embedder.embedder.convolution            conv
    bn1                  embedder.embedder.normalization          bn
    layer*/conv1         encoder.stages.*.layer.0.convolution     conv
    layer*/bn1           encoder.stages.*.layer.0.normalization   bn
    layer*/conv2         encoder.stages.*.layer.1.convolution     conv
    layer*/bn2           encoder.stages.*.layer.1.normalization   bn
    layer*/conv3         encoder.stages.*.layer.2.convolution     conv
    layer*/bn3           encoder.stages.*.layer.2.normalization   bn
    layer*/downsample_0  encoder.stages.*.shortcut.convolution    conv
    layer*/downsample_1  encoder.stages.*.shortcut.normalization  bn
"""
TIMM_LEFT = r"head\.|fc_norm\.|rope\.|.*mask_token$"
VIT_LEFT = r"pooler\.|classifier\.|head\.|.*mask_token$|decoder\.|lm_head\.|.*position_ids$"
OLD_NORM = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
BERT_LEFT = r"pooler\.|cls\.|lm_head\.|classifier\.|qa_outputs\.|embeddings\.position_ids$"
LAYOUTS = {
    "timm_vit": Layout(TIMM_VIT + GELU + TIMM_FC1, "module.", TIMM_LEFT),
    "timm_vit_swiglu": Layout(TIMM_VIT + SWIGLU + TIMM_FC1, "module.", TIMM_LEFT),
    "timm_eva": Layout(TIMM_EVA + GELU + TIMM_FC1, "module.", TIMM_LEFT),
    "timm_eva_swiglu": Layout(TIMM_EVA + EVA_SWIGLU, "module.", TIMM_LEFT),
    "hf_vit": Layout(HF_VIT, "vit.", VIT_LEFT),
    "hf_vit_mae": Layout(HF_VIT, "vit.", VIT_LEFT, heads=HF_MAE_DECODER),
    "hf_ijepa": Layout(HF_VIT, "ijepa.", VIT_LEFT),
    "hf_beit": Layout(HF_BEIT, "beit.", VIT_LEFT, heads=MASK_TOKEN),
    "hf_data2vec-vision": Layout(HF_BEIT, "data2vec_vision.", VIT_LEFT),
    "hf_dinov2": Layout(HF_DINOV2 + DINOV2_GELU, "dinov2.", VIT_LEFT, heads=MASK_ROW),
    "hf_dinov2_swiglu": Layout(HF_DINOV2 + DINOV2_SWIGLU, "dinov2.", VIT_LEFT, heads=MASK_ROW),
    "hf_dinov2_with_registers": Layout(
        HF_DINOV2 + DINOV2_GELU, "dinov2_with_registers.", VIT_LEFT, heads=MASK_ROW
    ),
    "hf_dinov2_with_registers_swiglu": Layout(
        HF_DINOV2 + DINOV2_SWIGLU, "dinov2_with_registers.", VIT_LEFT, heads=MASK_ROW
    ),
    "hf_dinov3_vit": Layout(
        HF_DINOV3, "dinov3_vit.", VIT_LEFT, (("model.layer.", "layer."),), heads=MASK_TOKEN
    ),
    "hf_bert": Layout(
        BERT.format(positions="array", types="array"),
        "bert.",
        BERT_LEFT,
        OLD_NORM,
        heads=BERT_HEAD,
    ),
    "hf_roberta": Layout(
        BERT.format(positions="after_padding", types="one_type"),
        "roberta.",
        BERT_LEFT,
        OLD_NORM,
        heads=ROBERTA_HEAD,
    ),
    "hf_gpt2": Layout(GPT2, "transformer.", r"lm_head\.|score\.|h\.\d+\.attn\.(masked_)?bias$"),
    "resnet": Layout(RESNET, "module.", r"fc\.|.*num_batches_tracked$", numbers="dotted"),
    "hf_resnet": Layout(
        HF_RESNET, "resnet.", r"classifier\.|.*num_batches_tracked$", numbers="stages"
    ),
}
