# Everything that a node of a cluster needs: Ray, CUDA, Starloom with its packages, storage clients, the sandbox's tools.
#   docker build -f platform/containers/starloom.Dockerfile -t REGISTRY/starloom:0.2.0 .      from the root of this repository
#   docker push REGISTRY/starloom:0.2.0                                  then name it in cluster.yaml or the manifests
# For serving with vLLM, which needs other versions, one of its own:
#   docker build -f platform/containers/starloom.Dockerfile -t REGISTRY/starloom-serve:0.2.0 \
#     --build-arg CONSTRAINTS=constraints-vllm.txt --build-arg EXTRAS=serve,evaluate,vllm,s3,gs,azure .
FROM rayproject/ray:2.60.0-py311-gpu

USER root
RUN apt-get update && apt-get install -y --no-install-recommends git g++ make \
    && rm -rf /var/lib/apt/lists/*
USER ray

WORKDIR /home/ray/starloom
# the packages first: a change of the code does not install them anew
ARG CONSTRAINTS=constraints.txt
ARG EXTRAS=all,s3,gs,azure
COPY --chown=ray pyproject.toml constraints.txt constraints-vllm.txt README.md LICENSE ./
RUN mkdir -p platform/starloom platform/recipes data_jobs train_jobs serve_apps \
    && printf '__version__ = "0"\n' > platform/starloom/__init__.py \
    && pip install --no-cache-dir -c $CONSTRAINTS -e ".[$EXTRAS]"
COPY --chown=ray . .

ENV PYTHONPATH=/home/ray/starloom:/home/ray/starloom/platform \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_apps.proxy:middlewares
