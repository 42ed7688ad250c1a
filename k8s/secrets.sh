#!/usr/bin/env bash
# Makes the Secrets that the manifests refer to, with random values, in the namespace "ssprompt".
#
#   k8s/secrets.sh dev     everything is made up: the servers in the cluster learn the same values
#   k8s/secrets.sh prod    S3 and Postgres exist already; their credentials come from the environment:
#                          AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   the studies' bucket
#                          MLFLOW_AWS_ACCESS_KEY_ID, MLFLOW_AWS_SECRET_ACCESS_KEY   MLflow's bucket
#                          PGPASSWORD   the database's user
#
# A Secret that is there already stays as it is: running it again changes nothing, and `kubectl delete
# secret NAME` before it gives a new value. Values are on no command line and on no disk of yours.
set -euo pipefail
umask 077

fail() { echo "error: $*" >&2; exit 2; }
[[ $# == 1 && ($1 == dev || $1 == prod) ]] || fail "say for what: k8s/secrets.sh dev, or k8s/secrets.sh prod"
command -v kubectl >/dev/null || fail "kubectl is not on the PATH"
where=$1 namespace=ssprompt

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# make NAME KEY=VALUE...: the values go through a pipe, base64 as the API wants them
make() {
    local name=$1 pair
    shift
    if kubectl get secret "$name" --namespace "$namespace" >/dev/null 2>&1; then
        echo "secret/$name is there already"
        return
    fi
    {
        printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\ntype: Opaque\ndata:\n' \
            "$name" "$namespace"
        for pair in "$@"; do
            printf '  %s: %s\n' "${pair%%=*}" "$(printf %s "${pair#*=}" | base64 | tr -d '\n')"
        done
    } | kubectl create --filename -
}

if [[ $where == prod ]]; then
    for variable in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY MLFLOW_AWS_ACCESS_KEY_ID \
        MLFLOW_AWS_SECRET_ACCESS_KEY PGPASSWORD; do
        [[ -n ${!variable:-} ]] || fail "$variable is not set; k8s/secrets.sh prod takes it from the environment"
    done
fi

# quiet where it is there; its labels come with the platform
kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"

make ray-token "auth_token=$(random 32)"
make mlflow-login username=admin "password=$(random 24)"
make mlflow-session "key=$(random 32)"
if [[ $where == prod ]]; then
    make s3-studies "AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY"
    make s3-mlflow "AWS_ACCESS_KEY_ID=$MLFLOW_AWS_ACCESS_KEY_ID" \
        "AWS_SECRET_ACCESS_KEY=$MLFLOW_AWS_SECRET_ACCESS_KEY"
    make postgres-login "password=$PGPASSWORD"
    exit
fi

make postgres-login "password=$(random 24)"
# the server's list and the clients' keys belong together: all of them are made, or none
secrets=(objectstore-identities s3-admin s3-studies s3-mlflow)
there=$(kubectl get secret --namespace "$namespace" --output name | sed 's|^secret/||')
found=()
for name in "${secrets[@]}"; do
    grep -qx "$name" <<<"$there" && found+=("$name")
done
if ((${#found[@]} == ${#secrets[@]})); then
    printf 'secret/%s is there already\n' "${secrets[@]}"
    exit
fi
((${#found[@]} == 0)) || fail "only ${found[*]} of ${secrets[*]} are there; delete them first: kubectl delete secret ${found[*]} --namespace $namespace"

identities='{"identities": ['
for name in admin studies mlflow; do
    access=$(random 10) secret=$(random 20)
    case $name in
        admin) actions='"Admin", "Read", "Write", "List", "Tagging"' ;;
        studies) actions='"Read:ssprompt", "Write:ssprompt", "List:ssprompt", "Tagging:ssprompt"' ;;
        mlflow) actions='"Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"' ;;
    esac
    identities+="{\"name\": \"$name\", \"actions\": [$actions], "
    identities+="\"credentials\": [{\"accessKey\": \"$access\", \"secretKey\": \"$secret\"}]}"
    [[ $name == mlflow ]] || identities+=', '
    make "s3-$name" "AWS_ACCESS_KEY_ID=$access" "AWS_SECRET_ACCESS_KEY=$secret"
done
make objectstore-identities "s3.json=$identities]}"
