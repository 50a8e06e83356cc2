/** A proxy that cuts connections. */

import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/**
 * A TCP proxy before a service. `allowances` are the numbers of bytes that it lets back to the client before it cuts
 * a connection, one for each connection; those after them are not cut.
 */
export class CuttingProxy {
  private readonly sockets = new Set<Socket>();
  private readonly server = createServer((client) => this.accept(client));
  url = "";
  /** How many connections were made. */
  connections = 0;
  /** The bytes that came back on the connection that was made last. */
  bytes = 0;
  /** Whether every connection is cut as soon as it is made. */
  isDown = false;
  /** Whether nothing that comes from the service gets back to the client. */
  isMute = false;

  private constructor(
    private readonly target: string,
    private readonly allowances: Iterator<number>,
  ) {}

  static async start(target: string, allowances: Iterable<number> = []): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(target, allowances[Symbol.iterator]());
    await new Promise<void>((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${(proxy.server.address() as AddressInfo).port}`;
    return proxy;
  }

  /** Cuts all connections now. */
  cut(): void {
    for (const socket of this.sockets) socket.destroy();
  }

  /** Loses the network: cuts all connections, and lets none be made until `isDown` is false. */
  goDown(): void {
    this.isDown = true;
    this.cut();
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private accept(client: Socket): void {
    this.connections += 1;
    this.bytes = 0;
    client.on("error", () => undefined);
    if (this.isDown) {
      client.destroy();
      return;
    }
    const next = this.allowances.next();
    const allowance = next.done ? Infinity : next.value;
    const service = connect(Number(new URL(this.target).port), "127.0.0.1");
    for (const [socket, other] of [[client, service], [service, client]] as const) {
      this.sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.sockets.delete(socket);
        other.destroy();
      });
    }
    client.on("data", (data) => service.write(data));
    service.on("data", (data) => {
      if (this.isMute) return;
      const left = allowance - this.bytes;
      this.bytes += data.length;
      if (data.length < left) client.write(data);
      // A cut, not an end: what was allowed arrives first.
      else client.write(data.subarray(0, left), () => client.destroy());
    });
    if (allowance === 0) client.destroy();
  }
}
