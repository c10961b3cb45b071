"""Weights of torch hub's entry points, found in the text of modules as they are written in the wild."""

from __future__ import annotations

import textwrap

import pytest

from nnenv.formats.hubconf import HubError, digest_prefix, file_name, weights_address

URL = "https://h.example/models/net-0123abcd.onnx"
OTHER = "https://h.example/models/net-89abcdef.onnx"

TORCHVISION_OLD = {
    "hubconf.py": "dependencies = ['torch']\nfrom vision.models.resnet import resnet18, resnet50",
    "vision/__init__.py": "raise RuntimeError('run')",
    "vision/models/resnet.py": f"""
        from ..utils import load_state_dict_from_url
        model_urls = {{'resnet18': '{URL}', 'resnet50': '{OTHER}'}}
        def _resnet(arch, block, layers, pretrained, progress, **kwargs):
            model = ResNet(block, layers, **kwargs)
            if pretrained:
                model.load_state_dict(load_state_dict_from_url(model_urls[arch], progress=progress))
            return model
        def resnet18(pretrained=False, progress=True, **kwargs):
            '''See https://h.example/paper.pdf'''
            return _resnet('resnet18', BasicBlock, [2, 2], pretrained, progress, **kwargs)
        def resnet50(pretrained=False, progress=True, **kwargs):
            return _resnet(arch='resnet50', block=B, layers=[3], pretrained=pretrained, progress=progress, **kwargs)
        """,
}
TORCHVISION_NEW = {
    "hubconf.py": "from vision.models import resnet18",
    "vision/models/__init__.py": "from .resnet import *",
    "vision/models/resnet.py": f"""
        class ResNet18_Weights(WeightsEnum):
            IMAGENET1K_V1 = Weights(url="{URL}", meta={{"recipe": "https://h.example/recipe"}})
            IMAGENET1K_V2 = Weights(url="{OTHER}")
            DEFAULT = IMAGENET1K_V1
        @handle_legacy_interface(weights=("pretrained", ResNet18_Weights.DEFAULT))
        def resnet18(*, weights=None, progress=True):
            weights = ResNet18_Weights.verify(weights)
            return _resnet(weights)
        def _resnet(weights):
            return weights.get_state_dict(check_hash=True)
        """,
}


def found(files: dict[str, str], entrypoint: str = "net") -> str:
    """The address, from these files."""
    return weights_address(entrypoint, {path: textwrap.dedent(text) for path, text in files.items()}.get)


@pytest.mark.parametrize(
    ("files", "entrypoint", "address"),
    [
        (TORCHVISION_OLD, "resnet18", URL),
        (TORCHVISION_OLD, "resnet50", OTHER),
        (TORCHVISION_NEW, "resnet18", URL),
        ({"hubconf.py": f"def net():\n  return load('{URL}')\ndef other():\n  return load('{OTHER}')"}, "net", URL),
        (
            {"hubconf.py": "BASE = 'https://h.example/models/'\ndef net():\n  load(BASE + 'net-0123abcd.onnx')"},
            "net",
            URL,
        ),
        ({"hubconf.py": f"W: str = '{URL}'\ndef _net(): load(W)\nnet = _net"}, "net", URL),
        ({"hubconf.py": f"def net(url='{URL}'):\n  load(url)"}, "net", URL),
        ({"hubconf.py": f"U = {{'a': '{URL}', 'b': '{OTHER}'}}\ndef net():\n  n = 'a'\n  load(U.get(n))"}, "net", URL),
        (
            {"hubconf.py": "from . import m\ndef net(): return m.go('x')", "m.py": f"def go(a): load('{URL}')"},
            "net",
            URL,
        ),
        ({"hubconf.py": f"class net:\n  def __init__(self, a=1): load('{URL}')"}, "net", URL),
        ({"hubconf.py": f"try:\n  import x\nexcept E:\n  pass\nif 1:\n  def net(): load('{URL}')"}, "net", URL),
        ({"hubconf.py": f"def net():\n  net()\n  print(f'{{x}} loads')\n  load('{URL}')"}, "net", URL),
    ],
)
def test_where_an_address_is_found(files: dict[str, str], entrypoint: str, address: str) -> None:
    """Constants, dictionaries, classes of weights, arguments of helpers, modules that are imported by name."""
    assert found(files, entrypoint) == address


@pytest.mark.parametrize(
    ("files", "because"),
    [
        ({}, "it has no hubconf.py"),
        ({"hubconf.py": "x = 1"}, "defines no entry point net"),
        ({"hubconf.py": "net = 1"}, "defines no entry point net"),
        ({"hubconf.py": "def net(:"}, "hubconf.py is not Python that can be read here"),
        ({"hubconf.py": "def net(): pass\0"}, "is not Python"),
        ({"hubconf.py": "def net(): pass"}, "it names no file of weights"),
        (
            {"hubconf.py": f"def net(a):\n  load('{URL}' if a else '{OTHER}')"},
            f"it loads one of 2 files: {URL}, {OTHER}",
        ),
        (
            {"hubconf.py": "def net(n):\n  load(f'https://h.example/{n}.pth')"},
            "put together when the code runs: hubconf.py",
        ),
        ({"hubconf.py": "def net(n):\n  load(BASE + n + '.pth')"}, "put together"),
        ({"hubconf.py": "def net(n):\n  load('https://h.example/%s.pth' % n)"}, "put together"),
        ({"hubconf.py": "def net(n):\n  load('https://h.example/{}.pth'.format(n))"}, "put together"),
        (
            {"hubconf.py": f"U = {{'a': '{URL}'}}\ndef net(n):\n  load(U[n])"},
            "put together when the code runs: hubconf.py line 3",
        ),
        ({"hubconf.py": "a = b\nb = a\nfrom c import net", "c.py": "from hubconf import net"}, "no entry point"),
        ({"hubconf.py": "def net():\n  return " + "(" * 5000 + ")" * 5000}, "hubconf.py is not Python"),
        ({"hubconf.py": "def net():\n  return " + "-" * 20000 + "1"}, "nested too deeply"),
        ({"hubconf.py": "def net(x):\n  return " + "x+" * 20000 + "x"}, "it names no file of weights"),
    ],
)
def test_where_none_is(files: dict[str, str], because: str) -> None:
    """What cannot be known without running it, and what is not there."""
    with pytest.raises(HubError) as refused:
        found(files)
    assert because in str(refused.value) or "nested too deeply" in str(refused.value)


def test_a_text_that_is_made_to_take_long() -> None:
    """It is given up in seconds."""
    stars = "".join(f"from m{number} import *\n" for number in range(40))
    files = {"hubconf.py": stars, **{f"m{number}.py": stars for number in range(40)}}
    with pytest.raises(HubError, match="too long to understand"):
        found(files)
    names = "def net():\n" + "".join(f"  x{number} = 'a'\n" for number in range(20_000))
    with pytest.raises(HubError, match="names no file of weights"):
        found({"hubconf.py": names})
    large = "U = {" + ",".join(f"'{number}': '{URL}'" for number in range(3000)) + "}\n"
    with pytest.raises(HubError, match="too long to understand"):
        found({"hubconf.py": large + "def net():\n" + "".join(f"  U['{number}']\n" for number in range(3000))})


def test_names() -> None:
    """The digits of torch.hub's names."""
    assert digest_prefix(URL) == "0123abcd"
    assert file_name(URL + "?x=1") == "net-0123abcd.onnx"
    assert [digest_prefix(f"https://h.example/{name}") for name in ("net.pth", "net-0123.pth", "net-v1.pth")] == [
        ""
    ] * 3
