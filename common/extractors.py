"""Feature extractors: images in [-1, 1] go in, features and class probabilities come out.

`mnist` is the classifier that assets/train_classifier.py made, `inception` is pytorch-fid's
InceptionV3. `Extractor.forward` is the only place that converts images, generated and real ones.
"""

import hashlib
import io
import json
import pickle
import re
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from common.errors import Stop

EXTRACTORS = ("mnist", "inception")
MNIST_WEIGHTS = Path(__file__).resolve().parent.parent / "assets" / "mnist_classifier.pt"
MNIST_SIDE, DIGIT_SIDE = 28, 20  # MNIST's digits fill 20x20 pixels of its 28x28 images
INCEPTION_SIDE = 299
INCEPTION_HASH = "6726825d"  # the start of the SHA-256 of the official file


class MnistClassifier(nn.Module):
    """Five convolutions and two linear layers; smooth, and without batch norm."""

    dim = 128
    convolutions = ((1, 24, 5, 2), (24, 48, 3, 1), (48, 64, 3, 2), (64, 64, 3, 1), (64, 64, 3, 2))

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential()
        for c_in, c_out, k, stride in self.convolutions:
            self.body.extend([nn.Conv2d(c_in, c_out, k, stride, k // 2), nn.SiLU()])
        self.body.extend([nn.Flatten(), nn.Linear(64 * 4 * 4, self.dim), nn.SiLU()])
        self.head = nn.Linear(self.dim, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)  # (N,1,28,28) -> (N,128)
        return features, self.head(features)

    @staticmethod
    def fit(x: Tensor) -> Tensor:
        """Other sizes are resized to 20x20 and framed in black, as MNIST was made."""
        if x.shape[-2:] == (MNIST_SIDE, MNIST_SIDE):
            return x
        x = resize(x, DIGIT_SIDE)
        return F.pad(x, [(MNIST_SIDE - DIGIT_SIDE) // 2] * 4, value=-1.0)


class GlobalMean(nn.Module):
    """Adaptive average pooling to one pixel, but known to vmap in channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class FidInception(nn.Module):
    """pytorch-fid's network up to its last pooling, and the 1008 logits of its last layer."""

    dim = 2048

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        self.body = _fid_inception()
        self.body.load_state_dict(state)
        self.head, self.body.fc = self.body.fc, nn.Identity()
        self.body.avgpool = GlobalMean()
        self.body.to(memory_format=torch.channels_last)  # of the weights, which the maps follow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)  # (N,3,299,299) -> (N,2048)
        return features, self.head(features)

    @staticmethod
    def fit(x: Tensor) -> Tensor:
        """Grey in three channels, resized as pytorch-fid resizes."""
        return resize(x, INCEPTION_SIDE).expand(-1, 3, -1, -1)


def _fid_inception():
    """torchvision's InceptionV3 with the blocks that pytorch-fid replaces, its weights not set.

    pytorch_fid.inception.fid_inception_v3 builds the same, and downloads its weights each time.
    """
    import torchvision  # slow to import, and only needed here
    from pytorch_fid import inception as fid

    body = torchvision.models.inception_v3(
        weights=None, num_classes=1008, aux_logits=False, init_weights=False
    )
    for name, channels, features in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        setattr(body, f"Mixed_{name}", fid.FIDInceptionA(channels, pool_features=features))
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(body, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=width))
    body.Mixed_7b, body.Mixed_7c = fid.FIDInceptionE_1(1280), fid.FIDInceptionE_2(2048)
    return body


class Extractor(nn.Module):
    """A frozen network: images (N,1,H,W) in [-1, 1] -> features (N,dim), probabilities (N,K)."""

    def __init__(self, name: str, net: MnistClassifier | FidInception, weights_hash: str):
        super().__init__()
        self.name, self.dim, self.weights_hash = name, net.dim, weights_hash
        self.net = net.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in eval mode even if a network that contains this one is set to train."""
        return super().train(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim != 4 or x.shape[1] != 1 or not x.is_floating_point():
            raise ValueError(
                f"the extractor takes float images (N,1,H,W), not {x.dtype} {tuple(x.shape)}"
            )
        # A saved image ends at ±1, so a measured one does; 0·x keeps an infinity visible, as nan.
        x = x.clamp(-1, 1) + 0 * x
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            weights = {k: v.to(x.dtype) for k, v in self.net.state_dict().items()}
            features, logits = functional_call(self.net, weights, self.net.fit(x))
            return features, logits.softmax(1)


def load_extractor(
    name: str, device: torch.device | str, inception_weights: str | None = None
) -> Extractor:
    """The extractor on its device; what is missing or damaged is a Stop that says what to do."""
    if name not in EXTRACTORS:
        raise ValueError(f"extractor {name!r}: not one of {', '.join(EXTRACTORS)}")
    net, digest = _load_mnist() if name == "mnist" else _load_inception(inception_weights)
    return Extractor(name, net, digest[:16]).to(device)


def resize(x: Tensor, side: int) -> Tensor:
    """F.interpolate's bilinear as two products, whose derivative is deterministic everywhere."""
    rows, columns = (_bilinear(size, side, x.dtype, x.device) for size in x.shape[-2:])
    return rows @ x @ columns.mT  # (N,C,h,w) -> (N,C,side,side)


@lru_cache
def _bilinear(size, side, dtype, device):
    """The matrix (side,size) of a resize, kept: on a GPU, making it again is a copy each time."""
    with torch.inference_mode(False):  # else no gradient could ever save it
        identity = torch.eye(size, dtype=torch.float64)[None]
        matrix = F.interpolate(identity, side, mode="linear", align_corners=False)[0].T
        return matrix.to(device, dtype)


def _load_mnist():
    record = MNIST_WEIGHTS.with_suffix(".json")
    remedy = "restore it with git checkout, or make it again with python -m assets.train_classifier"
    try:
        expected = json.loads(record.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Stop(f"{record}: missing or damaged; {remedy}") from None
    try:
        content = MNIST_WEIGHTS.read_bytes()
    except OSError as error:
        raise Stop(f"{MNIST_WEIGHTS}: cannot be read ({error.strerror}); {remedy}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise Stop(
            f"{MNIST_WEIGHTS}: damaged, its SHA-256 should be {expected[:16]}… according to "
            f"{record.name}; {remedy}"
        )
    net = MnistClassifier()
    net.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
    return net, digest


def _load_inception(weights):
    path = Path(weights) if weights else _download_inception()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(f"{path}: cannot be read ({error.strerror}); see --inception_weights") from None
    digest = hashlib.sha256(content).hexdigest()
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", path.name)  # torch's own habit: name-<hash>.pth
    if named and not digest.startswith(named[1]):
        raise Stop(
            f"{path}: damaged, its SHA-256 is {digest[:16]}… but its name says {named[1]}; "
            "delete it and download it again"
        )
    if not digest.startswith(INCEPTION_HASH):
        print(f"{path}: not pytorch-fid's own weights, SHA-256 {digest}")
    try:
        return FidInception(torch.load(io.BytesIO(content), weights_only=True)), digest
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Stop(f"{path}: does not hold pytorch-fid's InceptionV3 ({reason})") from None


def _download_inception():
    from pytorch_fid.inception import FID_WEIGHTS_URL

    path = Path(torch.hub.get_dir()) / "checkpoints" / FID_WEIGHTS_URL.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    print(f"{path} not found: downloading {FID_WEIGHTS_URL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), hash_prefix=INCEPTION_HASH)
    except (OSError, RuntimeError) as error:
        raise Stop(
            f"the inception extractor needs {FID_WEIGHTS_URL}, and the download failed ({error}); "
            "fetch that file elsewhere and name it with --inception_weights, "
            "or measure with --extractor mnist"
        ) from None
    return path
