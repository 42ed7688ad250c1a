"""What is wrong with an S3 storage, in one sentence that names the way out.

No sentence repeats what a server or a library says in its own words: that may hold an access key
id, a session token or a signed request. Codes and names of exceptions are the vocabulary.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import botocore.exceptions as botocore
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

_ACCESS_KEY = (
    "the server does not know the access key; check AWS_ACCESS_KEY_ID (or AWS_PROFILE), and that "
    "AWS_ENDPOINT_URL names the server that gave it"
)
_SIGNATURE = (
    "the secret does not belong to the access key (the signature does not match); check "
    "AWS_SECRET_ACCESS_KEY"
)
_EXPIRED = (
    "the temporary credentials have expired; get fresh ones and set AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN anew"
)
_TOKEN = (
    "the server refuses the session token; AWS_SESSION_TOKEN must be of the same credentials as "
    "the keys, and unset for keys that have none"
)
_FULL = (
    "the server has no room left (full disk or used-up quota); free space there, for example by "
    "'python jobs/storage.py gc', or raise the quota"
)
_INTERNAL = (
    "the server failed inside, for which a full disk is the usual cause; look at the free space "
    "and the log of the server"
)
_BUSY = (
    "the server asks for fewer requests, and did so at every attempt; wait, or let fewer trials "
    "run at once (search.max_concurrent)"
)
_CLOCK = (
    "the clock of this machine differs too much from the server's; set it, for example by "
    "'timedatectl set-ntp true'"
)
_REGION = (
    "the bucket is in another region than the request says; set AWS_REGION and AWS_DEFAULT_REGION "
    "to the bucket's"
)
_NO_BUCKET = (
    "there is no such bucket; check its name in storage.root, or make it by "
    "'python jobs/storage.py init {bucket}'"
)
_NAME = (
    "this is no valid name of a bucket; 3 to 63 lower-case letters, digits, dots and hyphens are, "
    "so mend storage.root"
)
_NO_CONDITIONS = (
    "the server does not know conditional writes (If-None-Match), by which one process owns a "
    "study; use a server that does"
)
_ENCRYPTION = (
    "the server cannot use the key that the bucket is encrypted with; look at the bucket's "
    "encryption and at the permissions of that key"
)
_SENTENCES = {
    "InvalidAccessKeyId": _ACCESS_KEY,
    "SignatureDoesNotMatch": _SIGNATURE,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "InvalidToken": _TOKEN,
    "InvalidClientTokenId": _TOKEN,
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _NAME,
    "RequestTimeTooSkewed": _CLOCK,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "301": _REGION,
    "307": _REGION,
    "SlowDown": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "TooManyRequests": _BUSY,
    "429": _BUSY,
    "InternalError": _INTERNAL,
    "500": _INTERNAL,
    "507": _FULL,
    "InsufficientStorage": _FULL,
    "InsufficientCapacity": _FULL,
    "StorageFull": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "QuotaExceeded": _FULL,
    "NotImplemented": _NO_CONDITIONS,
    "KMS.DisabledException": _ENCRYPTION,
    "KMS.NotFoundException": _ENCRYPTION,
}
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"})
_UNAVAILABLE = frozenset({"502", "503", "504", "ServiceUnavailable", "RequestTimeout"})
_NO_SERVER = frozenset({"400", "404", "405", "BadRequest", "NotFound", "MethodNotAllowed"})
_PERMISSIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "ListObjects": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "HeadObject": "s3:GetObject",
    "UploadPart": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
}
_ARROW = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d{3})\))? during (\w+) operation")
_VERBS = (
    (("Put", "Upload", "Create", "Complete", "Copy"), "write"),
    (("Delete", "Abort"), "delete"),
    (("List", "HeadBucket"), "list"),
)


def sentence_of(error: BaseException, place: object) -> str:
    """Say what is wrong, without a request and without a word that may be secret.

    Args:
        error: What boto3, botocore or Arrow's file system raised.
        place: What was asked for: an ``S3Path`` or its text.

    Returns:
        The place, what was found, and what to do.
    """
    error = _innermost(error)
    if isinstance(error, ClientError):
        told = _of_answer(error, place)
    elif isinstance(error, botocore.BotoCoreError):
        told = _of_client(error)
    elif isinstance(error, OSError):
        told = _of_arrow(error, place)
    elif isinstance(error, ResponseParserError):
        told = f"what answers{_at()} speaks no S3; check AWS_ENDPOINT_URL"
    elif isinstance(error, ValueError) and "endpoint" in str(error).lower():
        told = _no_address()
    else:
        told = _unknown(error)
    return f"{place}: {told}"


def code_of(error: BaseException) -> str:
    """The server's code for an error, as in ``NoSuchBucket``; empty for one of another kind."""
    error = _innermost(error)
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def endpoint() -> str:
    """The endpoint that the environment names, without what may be secret in it; or empty."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return _server(named)


def _innermost(error: BaseException) -> BaseException:
    """What a transfer of boto3 failed with."""
    for inner in _chain(error):
        if isinstance(inner, ClientError | botocore.BotoCoreError):
            found: BaseException = inner
            return found
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_answer(error: ClientError, place: object) -> str:
    """Of an error that the server sent."""
    code = code_of(error)
    metadata = error.response.get("ResponseMetadata", {})
    status = str(metadata.get("HTTPStatusCode", ""))
    return _of_code(code, status, error.operation_name, place)


def _of_code(code: str, status: str, operation: str, place: object) -> str:
    code = code or status  # a page of HTML has none
    sentence = _SENTENCES.get(code)
    if code == "NotImplemented" and operation != "PutObject":
        sentence = None
    if sentence:
        return sentence.format(bucket="/".join(str(place).split("/")[:3]))
    if code in _DENIED:
        return _denied(code, operation)
    if code in _UNAVAILABLE or status in _UNAVAILABLE:
        return f"the server{_at()} is there but does not serve now ({code}); wait, or restart it"
    if code in _NO_SERVER:
        return (
            f"what answers{_at()} speaks no S3, or has no such bucket ({operation}: {code}); check "
            "AWS_ENDPOINT_URL and the bucket in storage.root"
        )
    number = f", HTTP {status}" if status and status != code else ""
    # codes are single words; whatever else an odd server puts there is not repeated
    word = code if re.fullmatch(r"[A-Za-z.]{1,60}|\d{3}", code) else "no code"
    return (
        f"{operation} failed with {word}{number}; look into the server's log, and check "
        "AWS_ENDPOINT_URL and the bucket's settings"
    )


def _denied(code: str, operation: str) -> str:
    permission = _PERMISSIONS.get(operation, f"s3:{operation}")
    verb = next((v for starts, v in _VERBS if operation.startswith(starts)), "read")
    advice = (
        f"give their user {permission} on this bucket, or choose a storage.root that they may "
        f"{verb}"
    )
    if code == "403":
        # an answer without a body does not tell a wrong key from a missing permission
        return f"the server refuses to {verb} (HTTP 403): the keys are wrong, or {advice}"
    return f"these credentials may not {verb} there ({operation}: access denied); {advice}"


def _of_client(error: botocore.BotoCoreError) -> str:
    """Of an error on this side, or on the way."""
    match error:
        case botocore.PartialCredentialsError():
            missing = re.findall(r"aws_\w+", str(error.kwargs.get("cred_var", "")).lower())
            named = missing[0].upper() if missing else "AWS_SECRET_ACCESS_KEY"
            return f"half of the credentials are there: {named} is missing; set it"
        case botocore.NoCredentialsError():
            return (
                "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or "
                "AWS_PROFILE), or run where an instance role gives them"
            )
        case botocore.ProfileNotFound():
            return (
                "AWS_PROFILE names a profile that is in no configuration file; 'aws configure "
                "list-profiles' shows those that are"
            )
        case (
            botocore.UnauthorizedSSOTokenError()
            | botocore.SSOTokenLoadError()
            | botocore.TokenRetrievalError()
        ):
            return "the login that gives the credentials has expired; log in again: 'aws sso login'"
        case botocore.CredentialRetrievalError() | botocore.RefreshWithMFAUnsupportedError():
            return (
                f"the credentials could not be fetched ({type(error).__name__}); check "
                "AWS_PROFILE and the instance role"
            )
        case botocore.ConfigParseError() | botocore.ConfigNotFound():
            return (
                "the configuration file of AWS is not readable; mend ~/.aws/config and "
                "~/.aws/credentials"
            )
        case botocore.ParamValidationError():
            return _NAME
        case botocore.EndpointProviderError():
            return _no_address()
        case botocore.IncompleteReadError() | botocore.ResponseStreamingError():
            return f"the server{_at()} broke off in the middle of an answer; look into its log"
        case botocore.HTTPClientError() | botocore.ConnectionError():
            return _of_connection(error)
        case _:
            return _unknown(error)


def _of_connection(error: botocore.BotoCoreError) -> str:
    url = str(error.kwargs.get("endpoint_url", "")) if hasattr(error, "kwargs") else ""
    where = _server(url) or endpoint() or "the server"
    match error:
        case botocore.ProxyConnectionError():
            return f"the proxy on the way to {where} does not answer; check HTTPS_PROXY"
        case botocore.SSLError():
            return _of_tls(error, where)
        case botocore.ConnectTimeoutError():
            return (
                f"{where} does not answer (no connection in time); check AWS_ENDPOINT_URL, the "
                "network and the firewall"
            )
        case botocore.ReadTimeoutError():
            return f"{where} takes requests but gives no answer in time; look at its load and log"
        case botocore.ConnectionClosedError():
            return (
                f"{where} closes the connection without an answer; it speaks no HTTP there, or "
                "was just stopped: check the port in AWS_ENDPOINT_URL"
            )
    cause = error.kwargs.get("error")
    if "NameResolution" in type(cause).__name__ or isinstance(cause, socket.gaierror):
        return (
            f"the name of {where} does not resolve; check AWS_ENDPOINT_URL, or AWS_REGION where "
            "no endpoint is set"
        )
    refused = " (connection refused)" if "refused" in str(cause) else ""
    return f"nothing answers at {where}{refused}; start the server, or check AWS_ENDPOINT_URL"


def _of_tls(error: botocore.SSLError, where: str) -> str:
    text = " ".join(str(inner) for inner in _chain(error))
    if "WRONG_VERSION_NUMBER" in text or "UNKNOWN_PROTOCOL" in text:
        return f"{where} speaks no TLS; write http:// instead of https:// in AWS_ENDPOINT_URL"
    if "CERTIFICATE_VERIFY_FAILED" in text or isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {where} is not trusted here; name the file of its authority in "
            "AWS_CA_BUNDLE"
        )
    return f"no TLS connection to {where} came about; check AWS_ENDPOINT_URL and its certificate"


def _of_arrow(error: OSError, place: object) -> str:
    """Of Arrow's file system, whose errors are sentences with a code in capitals."""
    found = _ARROW.search(str(error))
    if found is None:
        return _unknown(error)
    code, status = "".join(word.capitalize() for word in found[1].split("_")), found[2] or ""
    if code == "NetworkConnection":
        return f"nothing answers{_at()}; start the server, or check AWS_ENDPOINT_URL"
    return _of_code(status if code == "Unknown" and status else code, status, found[3], place)


def _unknown(error: BaseException) -> str:
    return f"{type(error).__name__}; check AWS_ENDPOINT_URL, the credentials and the network"


def _server(url: str) -> str:
    """Scheme, host and port of a URL: neither a password nor a signed query."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}".removeprefix("://") if host else ""


def _no_address() -> str:
    return (
        f"AWS_ENDPOINT_URL is no address of a server (of it '{endpoint()}' was understood); write "
        "http://host:port or https://host and nothing else"
    )


def _at() -> str:
    return f" at {endpoint()}" if endpoint() else ""
