"""That the benchmarks of a training step run: they end with an error where their sides compute another gradient."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import flex_attention

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OPTIONS = ["--preset", "tiny", "--device", "cpu", "--repeats", "1", "--out"]


def one_byte(*args, **kwargs):
    """Stand for the peak memory, which a process of its own measures."""
    return 1


def test_all_sides_of_a_step_agree(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_step

    monkeypatch.setattr(training_step, "_memory", one_byte)
    monkeypatch.setattr(
        "sys.argv", ["training_step.py", *OPTIONS, str(tmp_path), "--workloads", "questions", "--split"]
    )
    training_step.main()
    report = json.loads((tmp_path / "training_step_tiny.json").read_text())
    ratios = report["workloads"]["questions"]["ratios"]
    others = ["plain", "transformers", "transformers, checkpointing", "transformers, padding-free"]
    assert list(ratios) == others
    assert report["workloads"]["questions"]["milliseconds"]["ours"]["products"] > 0
    assert (tmp_path / "training_step_tiny.md").read_text().count("| transformers |") == 3


def test_steps_of_one_side_leave_the_weights_of_all_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import full_rows
    import training_sides
    from training_workloads import PRESETS

    preset, cpu = PRESETS["tiny"], torch.device("cpu")
    sides = training_sides.make_sides(preset, cpu, torch.float32, ["ours", "transformers, padding-free"])
    examples = full_rows.draw_examples("captions", preset, 0)
    images = training_sides.random_images(preset, examples)
    for side in sides.values():
        before = [parameter.clone() for parameter in side.trained]
        side.step(side.prepare(examples, images), 1)
        assert all(map(torch.equal, before, side.trained))


def test_what_adapters_add_is_their_own_products_and_the_prompt_prefix(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training_adapters

    monkeypatch.setattr(training_adapters, "_memory", one_byte)
    monkeypatch.setattr("sys.argv", ["training_adapters.py", *OPTIONS, str(tmp_path)])
    training_adapters.main()
    report = json.loads((tmp_path / "training_adapters_tiny.json").read_text())
    assert list(report["cases"]) == ["tower, projector", "projector"]
    for found in report["cases"].values():
        assert found["operations"] == {
            "difference": 256_689_152,
            "adapters_by_formula": 242_491_392,
            "adapters": 242_491_392,
            "prompt_prefix": 14_197_760,
        }
    assert (tmp_path / "training_adapters_tiny.md").read_text().count("| PEFT |") == 4


def test_operations_of_flex_attention_are_those_of_its_blocks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from flop_count import FlopCount

    # The backward pass is refused on the CPU before it is counted.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    rows, heads, length, width = 2, 4, 256, 16
    query = torch.randn(rows, heads, length, width, requires_grad=True)
    key, value = (torch.randn(rows, 2, length, width, requires_grad=True) for _ in range(2))
    compiled = torch.compile(flex_attention.flex_attention, dynamic=False)
    whole = 4 * rows * heads * length * length * width
    # Of the causal mask's four blocks one is empty.
    for attends, share in ((lambda b, h, q, k: q >= 0, 1.0), (lambda b, h, q, k: q >= k, 0.75)):
        mask = flex_attention.create_block_mask(attends, rows, None, length, length, device="cpu")
        with torch.no_grad(), FlopCount() as forward:
            compiled(query, key, value, block_mask=mask, enable_gqa=True)
        assert forward.total == share * whole
        with FlopCount() as both:
            compiled(query, key, value, block_mask=mask, enable_gqa=True).sum().backward()
        assert both.total == 3.5 * share * whole


@pytest.mark.parametrize("workload", ["captions", "notes", "questions"])
def test_the_rows_of_a_large_preset_are_full(monkeypatch, workload):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from full_rows import draw_examples, num_rows
    from training_workloads import PRESETS

    preset = PRESETS["llama3_1_8b"]
    for seed in (0, 1):
        examples = draw_examples(workload, preset, seed)
        assert num_rows(examples, preset) == preset.rows
        shown = {example.image: preset.image_tokens for example in examples}
        # Five words before an image are the prompt prefix; the last token of a sample is only predicted.
        own = sum(len(example.question) + len(example.answer) + 5 for example in examples)
        assert 0.95 < (sum(shown.values()) + own) / (preset.rows * preset.row_length) <= 1


def test_a_steps_time_is_split_by_kernels(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from kernel_times import kind_of, split_time

    kernels = {
        "nvjet_tst_192x192_64x4_2x1_v_bz_coopB_TNT": "products",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x1_tn_align8>": "products",
        "triton_tem_fused_flex_attention_backward_12": "attention",
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4>>": "attention",
        "triton_poi_fused_mul_silu_3": "elementwise",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "aten::mm": "products",
    }
    assert {name: kind_of(name) for name in kernels} == kernels
    square = torch.randn(256, 256)
    split = split_time(lambda: torch.mm(square, square), torch.device("cpu"))
    assert 0 < split["products"] <= split["wall"] and split["attention"] == 0
