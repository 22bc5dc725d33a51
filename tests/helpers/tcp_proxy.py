"""A TCP proxy that stalls, cuts, half-closes and delays: an ordinary network, on a bad day."""

import asyncio
import threading


class TcpProxy:
    """Forwards connections to ``target`` (``host:port``) from its own thread and event loop."""

    def __init__(self, target):
        self.target = target
        self.delay_s = 0.0  # of every piece of data, each way
        self.num_bytes = 0  # forwarded, both ways
        self._connections = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy")
        self._thread.start()
        self._call(self._start())

    def stall(self):
        """Connections stay, data does not move; nobody is told. New connections stall as well."""
        self._call(self._set(is_flowing=False))

    def resume(self):
        """Data moves again, what was held back first."""
        self._call(self._set(is_flowing=True))

    def cut(self):
        """Reset every connection; new ones are taken."""
        self._call(self._abort())

    def half_close(self):
        """End the way to the target; the way back stays open."""
        self._call(self._write_eof())

    def close(self):
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def _call(self, coroutine):
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _start(self):
        self._is_flowing = asyncio.Event()
        self._is_flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _set(self, *, is_flowing):
        if is_flowing:
            self._is_flowing.set()
        else:
            self._is_flowing.clear()

    async def _serve(self, reader, writer):
        host, port = self.target.rsplit(":", 1)
        connection = {writer}
        self._connections.add(task := asyncio.current_task())
        try:
            there, back = await asyncio.open_connection(host, int(port))
            connection.add(back)
            task.back, task.writers = back, connection
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, back))
                pumps.create_task(self._pump(there, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for end in connection:
                end.transport.abort()

    async def _pump(self, reader, writer):
        while data := await reader.read(1 << 16):
            await asyncio.sleep(self.delay_s)
            await self._is_flowing.wait()
            self.num_bytes += len(data)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def _abort(self):
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write_eof(self):
        for task in self._connections:
            task.back.write_eof()

    async def _stop(self):
        self._server.close()
        await self._abort()
