"""--pipeline on a Stable-Diffusion pipeline of random weights that the test builds itself."""

import builtins
import json

import pytest
import torch
from test_reward_runs import REWARD, parse

import finetune_reward
from common import errors
from common.errors import Stop
from studies.reward import pipelines

CPU = torch.device("cpu")
TINY = """--cpu --threads 1 --backward_steps 2 --bank_samples 12 --min_ess 3 --eval_samples 4
    --n_samples 4 --guided_samples 2 --log_freq 50 --lower_reward own_rewards:bright
    --upper_reward own_rewards:fills""".split()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder as save_pretrained leaves it: U-Net, decoder, text encoder, tokenizer, scheduler."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip(
        "transformers", reason="pip install transformers runs the tests of --pipeline"
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    letters = ["<|startoftext|>", "<|endoftext|>", *"acdgit", *(f"{c}</w>" for c in "acdgit")]
    words = tmp_path_factory.mktemp("words")
    (words / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(letters)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=8
    )
    text = transformers.CLIPTextConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 16), cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    pipe = diffusers.StableDiffusionPipeline(
        vae, transformers.CLIPTextModel(text), tokenizer, unet,
        diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)
    return folder


def bright(x):
    return x.mean((1, 2, 3))


def model_of(folder, scale=3.0, steps=3, size=None):
    return pipelines.load(str(folder), "a cat", scale, steps, size, CPU)


def test_unguided_samples_are_those_of_diffusers_own_pipeline(built):
    """The same latents through StableDiffusionPipeline with its DDIM scheduler."""
    import diffusers

    model = model_of(built)
    latents = model.noise(2, 0, "test")
    images = model.draw(latents, None, 1.0, lambda: None)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        built, safety_checker=None, requires_safety_checker=False
    )
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        ["a cat"] * 2, num_inference_steps=3, guidance_scale=3.0, latents=latents, output_type="pt"
    ).images
    torch.testing.assert_close((images + 1) / 2, theirs, rtol=1e-4, atol=1e-4)
    assert images.shape == (2, 3, 16, 16) and model.passes == 6


def test_the_gradient_passes_through_network_and_decoder(built):
    """The guidance in latents against finite differences in float64."""
    model = model_of(built)
    model.unet.double()
    model.vae.double()
    model.embeddings = model.embeddings.double()
    z = model.noise(1, 0, "test").double()
    t = model.scheduler.timesteps[1]
    eps, gradient = model.guided(z, t, bright, 0.5)
    signal, noise = model.levels(t)

    def reward_at(z):
        with torch.no_grad():
            return float(bright(model.decoded((z - noise * model.predicted(z, t)) / signal)))

    h, flat = 1e-5, gradient.flatten()
    for i in (0, 77, 200):
        step = torch.zeros_like(z).flatten()
        step[i] = h
        step = step.view_as(z)
        expected = (reward_at(z + step) - reward_at(z - step)) / (2 * h)
        assert float(flat[i]) == pytest.approx(expected, rel=1e-3, abs=1e-9)
    plain = model.predicted(z, t)
    torch.testing.assert_close(eps, plain - noise / 0.5 * gradient)
    assert gradient.abs().max() > 0


def test_guidance_moves_the_reward_and_a_prompt_changes_the_images(built):
    model = model_of(built)
    latents = model.noise(4, 1, "test")
    plain, guided = (model.draw(latents, r, 1e-4, lambda: None) for r in (None, bright))
    assert bright(guided).mean() > bright(plain).mean()
    other = pipelines.load(str(built), "dig it", 3.0, 3, None, CPU)
    assert not torch.equal(other.draw(latents, None, 1.0, lambda: None), plain)
    assert other.identity != model.identity
    assert model_of(built, scale=1.0).passes == 3
    assert model_of(built, size=32).shape == (4, 16, 16)


@pytest.mark.parametrize("words", ["--method bilevel --lambda0 1", "--method bayesian --n_calls 2"])
def test_the_command_fine_tunes_a_pipeline(words, built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards.py").write_text(REWARD)
    words = [*TINY, *words.split(), "--pipeline", built, "--prompt", "a cat"]
    args = parse(*words, "--runs_dir", tmp_path / "runs", "--cache_dir", tmp_path / "cache")
    assert errors.guarded(finetune_reward.main, args, "finetune_reward.py") == 0
    (folder,) = (tmp_path / "runs").glob("[0-9]*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["lambda"] > 0 and summary["n"] == 4 and "frechet_distance" not in summary
    assert (folder / "samples" / "after.png").exists()


def test_what_cannot_be_loaded_is_one_line(built, tmp_path, monkeypatch):
    (tmp_path / "model_index.json").write_text("{}")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(Stop, match=f"--pipeline {path}: cannot be loaded") as stopped:
            model_of(path)
        assert stopped.value.code == 2 and "\n" not in str(stopped.value)
    with pytest.raises(Stop, match="--pipeline_size 17"):
        model_of(built, size=17)
    with pytest.raises(Stop, match="exceeds T = 1000"):
        model_of(built, steps=1001)


def test_a_pipelines_identity_is_that_of_its_settings():
    """diffusers lists the settings that it filled in, in an order that differs from run to run."""
    settings = {"prediction_type": "epsilon", "_use_default_values": ["a", "b"]}
    other = {**settings, "_use_default_values": ["b", "a"]}
    assert pipelines.identity_of(settings) == pipelines.identity_of(other)
    changed = {**settings, "prediction_type": "v_prediction"}
    assert pipelines.identity_of(settings) != pipelines.identity_of(changed)


def test_without_the_optional_packages_one_line_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(Stop, match="pip install diffusers transformers"):
        model_of("anything")
