"""Which kernels XLA chose."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from whydiff.capturing.adapters.jax.kernels import named
from whydiff.pipeline import compare

TRITON = (
    'backend_config={"fusion_backend_config":{"kind":"__triton_gemm","triton_gemm_config":'
    '{"block_m":"16","block_n":"64","block_k":"128","split_k":"4"}}}'
)
NESTED = (
    'backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion","block_level_fusion_config":'
    '{"num_warps":"4","output_tiles":[{"sizes":["16","128"]}],"num_stages":3}}}'
)
CUBLAS = 'custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"selected_algorithm":"12"}}'
GPU = f"""HloModule jit_f

%inner (p: f32[8]) -> f32[8] {{
  ROOT %custom-call.7 = f32[8]{{0}} custom-call(%p), custom_call_target="not the entry"
}}

ENTRY %main.1 (a: bf16[8,512], b: bf16[512,256]) -> bf16[8,256] {{
  %a = bf16[8,512]{{1,0}} parameter(0)
  %b = bf16[512,256]{{1,0}} parameter(1)
  %wrapped_convert = f32[8,512]{{1,0}} fusion(%a), kind=kLoop, calls=%wrapped_convert_computation
  %g = bf16[8,256]{{1,0}} fusion(%a, %b), kind=kCustom, calls=%gemm, {TRITON}
  %n = bf16[8,256]{{1,0}} fusion(%a, %b), kind=kCustom, calls=%nested, {NESTED}
  %custom-call.1 = (bf16[8,256]{{1,0}}, s8[4]{{0}}) custom-call(%a, %b), {CUBLAS}
  %get-tuple-element = bf16[8,256]{{1,0}} get-tuple-element(%custom-call.1), index=0
  %input_reduce_fusion = f32[8]{{0}} fusion(%g), kind=kInput, calls=%fused_reduce
  ROOT %copy.1 = bf16[8,256]{{1,0}} copy(%get-tuple-element)
}}
"""


def test_library_calls_and_generated_kernels_are_named_with_the_autotuners_choice() -> None:
    assert named(GPU) == [
        "__triton_gemm block_m=16 block_n=64 block_k=128 split_k=4",
        "__triton_nested_gemm_fusion tile 16×128 num_warps=4 num_stages=3",
        "__cublas$gemm algorithm 12",
        "XLA fusion (kInput)",
    ]
    assert named("") == []


def test_a_batch_dependent_product_names_both_kernels() -> None:
    w = jax.random.normal(jax.random.key(0), (512, 256))
    x = jax.random.normal(jax.random.key(1), (8, 512))
    product = jax.jit(jax.vmap(lambda row: jnp.tanh(w.T @ row)))
    single = x[:1]
    diagnosis = compare(lambda: product(single), lambda: product(x))
    named_ones = [e for c in diagnosis.causes for e in c.evidence if "is carried out by" in e.statement]
    assert any(o.site.op == "dot_general" for o in diagnosis.origins)  # else this machine's kernels are invariant
    assert len(named_ones) == 1
    assert named_ones[0].data["reference"] and named_ones[0].data["candidate"]
    assert named_ones[0].data["reference"] != named_ones[0].data["candidate"]
