# The files that the examples name.
printf 'url = "ws://localhost:8080"\nscenario = "chat"\nclients = 20\nduration = "1s"\n' > nightly.toml
swarm chat ws://localhost:8080 --clients 20 --duration 1s --quiet --json yesterday.json
