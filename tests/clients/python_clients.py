"""websockets and aiohttp, as their authors publish them, against a running server: python_clients.py HOST:PORT"""
import asyncio
import sys

import aiohttp
import websockets

SERVER = sys.argv[1]


async def with_websockets():
    plain = await websockets.connect(f"ws://{SERVER}/ws/plain?room=py", compression=None, subprotocols=["chat"])
    deflated = await websockets.connect(f"ws://{SERVER}/ws/deflated?room=py", compression="deflate")
    assert plain.subprotocol == "chat", plain.subprotocol
    texts = ["short", "a longer text, " * 40, "Grüße 🙂 " * 100]
    for text in texts:
        await plain.send(text)
    for client in (plain, deflated):
        for text in texts:
            assert await client.recv() == f"plain: {text}"
    await deflated.send("from the other side " * 20)
    assert await plain.recv() == "deflated: " + "from the other side " * 20
    await asyncio.wait_for(await plain.ping(b"are you there"), 5)
    await plain.close(1000, "bye")
    assert plain.close_code == 1000, plain.close_code
    await deflated.send(b"binary")
    try:
        await deflated.recv()  # its own text first
        await deflated.recv()
        raise AssertionError("binary was taken")
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd.code == 1003, closed


async def refusals():
    for path, headers, status in [
        ("/ws/a", {"Origin": "http://evil.example"}, 403),
        ("/nowhere", {}, 404),
        ("/ws/%00", {}, 400),
    ]:
        try:
            await websockets.connect(f"ws://{SERVER}{path}", additional_headers=headers)
            raise AssertionError(f"{path} was accepted")
        except websockets.InvalidStatus as refused:
            assert refused.response.status_code == status, refused


async def with_aiohttp():
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{SERVER}/metrics") as answer:
            assert answer.status == 200 and "stentor_connections" in await answer.text()
        async with session.ws_connect(f"http://{SERVER}/ws/aio?room=aio", compress=15) as socket:
            await socket.send_str("hello " * 50)
            assert await socket.receive_str() == "aio: " + "hello " * 50
            await socket.close()
            assert socket.close_code == 1000, socket.close_code


async def main():
    await with_websockets()
    await refusals()
    await with_aiohttp()
    print("websockets and aiohttp: ok")


asyncio.run(asyncio.wait_for(main(), 30))
