"""The server's PEM files: each that cannot be used is named by its variable before anything else starts."""

import pytest

from server.ports import StartError
from server.settings import Settings
from server.tls import credentials


@pytest.mark.parametrize("variable", ["tls_certificate", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize(("made", "reason"), [(None, "No such file or directory"), ("folder", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_with_its_variable(authority, tmp_path, variable, made, reason):
    files = {
        "tls_certificate": authority.server.certificate,
        "tls_key": authority.server.key,
        "tls_client_ca": authority.ca,
    }
    broken = tmp_path / "broken.pem"
    if made == "folder":
        broken.mkdir()
    with pytest.raises(StartError) as refused:
        credentials(Settings(**{**files, variable: broken}))
    assert str(refused.value) == f"GLOSS_{variable.upper()}: {broken} cannot be read: {reason}"
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("tls_certificate", "GLOSS_TLS_CERTIFICATE and GLOSS_TLS_KEY: not PEM"),
        ("tls_key", "GLOSS_TLS_CERTIFICATE and GLOSS_TLS_KEY: not PEM"),
        ("tls_client_ca", "GLOSS_TLS_CLIENT_CA: not PEM"),
    ],
)
def test_a_file_that_is_no_pem_is_named_with_its_variable(authority, tmp_path, variable, named):
    files = {
        "tls_certificate": authority.server.certificate,
        "tls_key": authority.server.key,
        "tls_client_ca": authority.ca,
    }
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    with pytest.raises(StartError, match=named):
        credentials(Settings(**{**files, variable: broken}))
